R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""spew: prints each line of Python before it runs.

One write(2) per line: it is out before the line runs, which may hang or crash, and workers never
mix their lines. posix.write, because eventlet replaces os.write. Frames without a file (exec, eval)
have no source to show.
"""

import linecache, sys, threading
from posix import write

known = {}  # (id of the code, line) -> the code, which keeps the id taken, and the text
KNOWN_MAX = 200_000  # there may be no end of generated code


def describe(frame):
    code, number = frame.f_code, frame.f_lineno
    file = code.co_filename
    if file.startswith("<frozen "):  # os, for example: the interpreter contains it
        file = frame.f_globals.get("__file__") or file
    module = frame.f_globals.get("__name__", "[unknown]")
    try:
        source = linecache.getline(file, number or 0, frame.f_globals).rstrip()
    except Exception:  # a third-party loader
        source = ""
    if not source:
        source = "unknown code named [%s], instruction #%d" % (code.co_name, frame.f_lasti)
    text = ("%s:%s: %s\n" % (module, number, source)).encode(errors="backslashreplace")
    if len(known) >= KNOWN_MAX:
        known.clear()
    known[id(code), number] = code, text
    return text


def trace(frame, event, argument):
    if event == "line":
        found = known.get((id(frame.f_code), frame.f_lineno))
        try:
            write(1, found[1] if found else describe(frame))
        except OSError:  # nobody reads the output
            pass
    return trace


def spew(is_on):
    threading.settrace(trace if is_on else None)
    sys.settrace(trace if is_on else None)
# )PY"
