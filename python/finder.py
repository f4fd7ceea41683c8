R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""How Python finds the other texts that gcorn carries: the module `_gcorn_finder`."""

import sys
from _gcorn_native import embedded_text


class Finder:
    """Last on sys.meta_path: the embedded modules, and gunicorn if it is not installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "gunicorn":
            import _gcorn_stand_in
            return _gcorn_stand_in.find_spec(name)
        if name.startswith("_gcorn") and embedded_text(name) is not None:
            return type(sys.__spec__)(name, Finder, origin="gcorn")

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__
        exec(compile(embedded_text(name), f"<gcorn {name}>", "exec"), module.__dict__)


class LoggingWatch:
    """First on sys.meta_path until somebody imports logging; then sets up our two loggers."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(LoggingWatch)
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec = next(filter(None, found), None)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if "_gcorn_logging" not in sys.modules:  # else that is what imports logging
                import _gcorn_logging
                _gcorn_logging.current()

        spec.loader.exec_module = exec_module
        return spec


def watch_logging():
    if LoggingWatch not in sys.meta_path:
        sys.meta_path.insert(0, LoggingWatch)


sys.meta_path.append(Finder)
# )PY"
