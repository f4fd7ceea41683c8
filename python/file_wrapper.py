R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""wsgi.file_wrapper (PEP 3333 "Optional Platform-Specific File Handling").

The kernel sends real files (Streams::real_file()); this is what reads all others.
"""


class FileWrapper:
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
        """The iteration of the oldest Python, which gunicorn's class still offers."""
        for block in self:
            return block
        raise IndexError("end of file")
# )PY"
