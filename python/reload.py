R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""reload: remembers the sources that modules were imported from.

importlib asks for a source's time and size just before it reads it.
"""

import os, sys
from importlib.machinery import SourceFileLoader

sys.dont_write_bytecode = True
imported = {}
path_stats = SourceFileLoader.path_stats


def noting_path_stats(self, path):
    stats = path_stats(self, path)
    imported[path] = stats["mtime"], stats["size"]
    return stats


def changed_since_import():
    while imported:
        path, read = imported.popitem()
        try:
            now = os.stat(path)
        except OSError:
            continue  # its absence is for the reloader to report
        if (now.st_mtime, now.st_size) != read:
            return path
    return ""


SourceFileLoader.path_stats = noting_path_stats
# )PY"
