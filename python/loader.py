R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""Finds the application that a specification names, and the files it is made of.

Any error in the specification itself raises Unusable, whose text says it all; any other exception
is the application's own. Imports only what the specification needs, to keep start-up short.
"""

import os
import sys


wanted = ""  # the module that the specification names


class Unusable(Exception):
    pass


def parse(expression):
    """The attribute to take, and the arguments to call it with; None if it is not called."""
    if expression.isidentifier():
        return expression, None, None
    import ast
    unclear = Unusable(f"Failed to parse {expression!r} as an attribute name or function call.")
    try:
        node = ast.parse(expression, mode="eval").body
    except SyntaxError:
        raise unclear from None
    if not isinstance(node, ast.Call):
        raise unclear
    if not isinstance(node.func, ast.Name):
        raise Unusable(f"Function reference must be a simple name: {expression!r}")
    try:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("**")
        return (node.func.id, [ast.literal_eval(value) for value in node.args],
                {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords})
    except ValueError:
        raise Unusable(f"Failed to parse arguments as literal values: {expression!r}") from None


def import_module(name, expression):
    import importlib
    try:
        return importlib.import_module(name)
    except ImportError:
        if name.endswith(".py") and os.path.exists(name):
            raise ImportError("Failed to find application, did you mean "
                              f"'{name[:-3]}:{expression}'?") from None
        raise


def call_factory(factory, args, kwargs):
    try:
        return factory(*args, **kwargs)
    except TypeError as error:
        if error.__traceback__.tb_next is None:  # refused before its first line: wrong arguments
            raise Unusable(f"TypeError: {error}") from None
        raise


def from_paste(file, section, assignments):
    """The application of a PasteDeploy file; assignments: NAME=VALUE; a backslash escapes a =."""
    import re
    try:
        from paste.deploy import loadapp
    except ImportError:
        raise Unusable("paste needs the package PasteDeploy, which is not installed") from None
    pairs = [re.split(r"(?<![\\])=", text, maxsplit=1) for text in assignments]
    return loadapp("config:" + file, name=section, relative_to=os.path.dirname(file),
                   global_conf={name.replace("\\=", "="): value.replace("\\=", "=")
                                for name, value in pairs})


def find(spec):
    """The application that "module", "module:name" or "module:factory(literals)" names.

    "<paste>" with the arguments of from_paste() as literals names one of a PasteDeploy file.
    """
    if spec.startswith("<paste>"):
        import ast
        return from_paste(*ast.literal_eval(spec[len("<paste>"):]))
    global wanted
    wanted, colon, expression = spec.partition(":")
    if not colon:
        expression = "application"
    module = import_module(wanted, expression)
    attribute, args, kwargs = parse(expression)
    try:
        found = getattr(module, attribute)
    except AttributeError:
        raise Unusable(f"Failed to find attribute {attribute!r} in {wanted!r}.") from None
    if args is not None:
        found = call_factory(found, args, kwargs)
    if found is None:
        raise Unusable(f"Failed to find application object: {expression!r}")
    if not callable(found):
        raise Unusable("Application object must be callable.")
    return found


def freeze():
    """Prepares what is loaded for forks: hidden from the collector, it stays in shared memory."""
    import gc
    import time
    # Where gevent has patched Python, starting a thread leaves the hub in the middle of a
    # notification. In a child, whose locks are new, that would end in a traceback; so let it finish
    # here.
    time.sleep(0)
    gc.collect()
    gc.freeze()


def source_files():
    # Through __dict__, because getattr would make lazy modules import themselves.
    modules = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    names = [module.get("__file__") for module in modules]
    # The __file__ of a module in a zip archive names no file; the loader (zipimport) has one.
    names += [getattr(module.get("__loader__"), "archive", None) for module in modules]
    names += getattr(sys.modules.get("_gcorn"), "extra_files", ())
    return [name[:-1] if name.endswith((".pyc", ".pyo")) else name
            for name in names if isinstance(name, str)]


def places_of(name):
    """Where the source of the module of that name is, or would be."""
    package, _, last = name.rpartition(".")
    directories = getattr(sys.modules.get(package), "__path__", ()) if package else sys.path
    return [os.path.join(directory, last + end) for directory in directories
            if os.path.isdir(directory or ".") for end in (".py", "/__init__.py")]


def files_of(error):
    """The files whose change can cure an import error: those it passed through or looked for."""
    import traceback
    seen, missing = set(), []
    # The error may not name a source that can't even be compiled (NUL bytes, a parser out of
    # memory).
    parts = wanted.split(".")
    there = [place for end in range(len(parts)) for place in places_of(".".join(parts[:end + 1]))]
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        there += [frame.f_code.co_filename for frame in frames]
        if isinstance(error, SyntaxError) and error.filename:
            there.append(error.filename)
        elif isinstance(error, ImportError) and error.name:
            missing += places_of(error.name)
        elif frames:  # a source that can't even be compiled (NUL bytes) has no frame of its own
            names = frames[-1].f_code.co_names
            there += [place for name in names if name not in sys.modules for place in places_of(name)]
        error = error.__cause__ or error.__context__
    return [name for name in there if isinstance(name, str) and os.path.isfile(name)] + missing

# )PY"
