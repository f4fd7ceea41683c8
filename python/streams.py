R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""wsgi.errors and wsgi.file_wrapper (PEP 3333), and the signature of start_response: the module
`_gcorn_streams`."""

from _thread import get_ident
from io import BufferedRandom, BufferedReader, FileIO

LINE_MAX = 64 * 1024  # an unfinished line longer than this is written anyway


class Errors:
    """Unfinished lines wait, one per thread, so that output of two threads never shares a line."""

    __module__ = "gcorn"
    __slots__ = "_write", "_lines"
    closed = False

    def __init__(self, write, lines):
        self._write, self._lines = write, lines

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        line = self._lines.pop(get_ident(), "")
        line += text
        end = len(line) if len(line) > LINE_MAX else line.rfind("\n") + 1
        if end < len(line):
            self._lines[get_ident()] = line[end:]
        if end:
            self._emit(line[:end])
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        if get_ident() in self._lines:
            self._emit(self._lines.pop(get_ident()) + "\n")

    def isatty(self):
        return False

    def _end(self):
        """Writes the lines that threads left unfinished, too; later output is dropped."""
        while self._lines:
            self._emit(self._lines.popitem()[1] + "\n")
        self._write = len

    def _emit(self, text):
        # Lone surrogates (PEP 383 file names) are common in error messages and must not raise here.
        self._write(text.encode("utf-8", "backslashreplace"))


def start_response(status, headers, exc_info=None):
    return status, headers, exc_info


def real_file(wrapper):
    """(descriptor, offset) if a plain binary file of the io module is wrapped."""
    file = wrapper.filelike
    raw = file.raw if type(file) in (BufferedReader, BufferedRandom) else file
    if type(raw) is FileIO:
        file.flush()  # a BufferedRandom's writes must be in the file before the kernel reads it
        return file.fileno(), file.tell()
    return None


class FileWrapper:
    """Reads the files that the kernel cannot send."""

    __module__ = "gcorn"

    def __init__(self, filelike, blksize=8192):
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self):
        return self

    def __next__(self):
        block = self.filelike.read(self.blksize)
        if block:
            return block
        raise StopIteration

    def __getitem__(self, _):
        """The oldest protocol of iteration, which gunicorn's class still offers."""
        for block in self:
            return block
        raise IndexError("end of file")
# )PY"
