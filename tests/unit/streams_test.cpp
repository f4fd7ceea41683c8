#include "python/streams.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/clock.h"
#include "tests/support/wsgi_harness.h"

namespace gcorn {
namespace {

constexpr const char* kPost = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// `i` in Python is the wsgi.input of one request.
class Input : public ::testing::Test {
protected:
    Input() {
        interpreter();
        WithGil gil;
        streams_ = std::make_unique<Streams>();
        EXPECT_TRUE(streams_->prepare(log_.log));
    }
    ~Input() override {
        WithGil gil;
        input_.reset();
        run_python("i = None");
        streams_.reset();
    }
    void open(std::string_view body, bool is_complete = true, const char* head = kPost) {
        WithGil gil;
        request_ = std::make_unique<ExchangeTest>(head, body, is_complete);
        input_ = streams_->make_input(*request_->exchange);
        PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")), "i", input_.get());
    }

    LogFile log_;
    std::unique_ptr<Streams> streams_;
    std::unique_ptr<ExchangeTest> request_;
    PyRef input_;
};

TEST_F(Input, ReadsPiecesAndThenNothing) {
    open("hello world");
    EXPECT_EQ(eval_python("i.read(0), i.read(5), i.read(100), i.read(1), i.read()"),
              "(b'', b'hello', b' world', b'', b'')");
}

TEST_F(Input, NoneNegativeAndAbsentSizesMeanEverything) {
    for (const char* call : {"i.read()", "i.read(None)", "i.read(-1)", "i.read(-10**30)",
                             "i.read(10**30)", "b''.join(i.readlines())", "b''.join(i)"}) {
        open("ab\ncd");
        EXPECT_EQ(eval_python(call), "b'ab\\ncd'") << call;
    }
}

TEST_F(Input, RefusesWrongArguments) {
    open("abc");
    for (const char* call :
         {"i.read('1')", "i.read(1.0)", "i.read(1, 2)", "i.readline('')", "i.readlines([])",
          "i.read(length=1)", "i.read(1, size=1)", "i.read(size='')", "i.readline(hint=1)"})
        EXPECT_TRUE(eval_python(call).starts_with("raised TypeError")) << call;
    EXPECT_EQ(eval_python("i.read(True)"), "b'a'");
}

TEST_F(Input, TakesASizeByName) {
    open("abc\ndef\n");
    EXPECT_EQ(eval_python("i.read(size=2), i.readline(size=1), i.readline(size=None), "
                          "i.readlines(size=1), i.read(size=-1)"),
              "(b'ab', b'c', b'\\n', [b'def\\n'], b'')");
}

TEST_F(Input, ReadsLines) {
    open("one\n\ntwo\r\nlast");
    EXPECT_EQ(eval_python("i.readline(), i.readline(), i.readline(2), i.readline(), i.readline(0), "
                          "i.readline(100), i.readline()"),
              "(b'one\\n', b'\\n', b'tw', b'o\\r\\n', b'', b'last', b'')");
}

TEST_F(Input, ReadlinesStopsAfterTheLineThatPassesTheHint) {
    open("aa\nbb\ncc\ndd\n");
    EXPECT_EQ(eval_python("i.readlines(4), i.readlines(3), i.readlines(0), i.readlines()"),
              "([b'aa\\n', b'bb\\n'], [b'cc\\n'], [b'dd\\n'], [])");
}

TEST_F(Input, IsItsOwnIterator) {
    open("a\nb");
    EXPECT_EQ(eval_python("iter(i) is i, next(i), i.read(1), list(i)"),
              "(True, b'a\\n', b'b', [])");
}

TEST_F(Input, OffersNothingElse) {
    open("x");
    EXPECT_EQ(eval_python("[a for a in ('close', 'seek', 'tell', 'fileno', 'getvalue') "
                          "if hasattr(i, a)]"),
              "[]");
    EXPECT_TRUE(eval_python("type(i)()").starts_with("raised TypeError"));
}

/// The same calls over memory, over a file, and across the border between them give the same bytes.
TEST_F(Input, MemoryAndFileReadAlike) {
    std::string pattern;
    for (int i = 0; pattern.size() < 300000; ++i)
        pattern += std::string(static_cast<size_t>(i % 997), 'x') + '\n';
    for (const size_t size :
         {kSpoolMemoryMax - 1, kSpoolMemoryMax, kSpoolMemoryMax + 1, size_t{300000}}) {
        const std::string body = pattern.substr(0, size);
        open(body);
        EXPECT_EQ(request_->exchange->body.in_memory(), size <= kSpoolMemoryMax);
        run_python(
            "import hashlib, itertools\nh = hashlib.sha1()\nn = 0\n"
            "for step in itertools.cycle([1, 70000, 'line', 13, 'limited', 8192]):\n"
            "    data = i.readline() if step == 'line' else i.readline(50) if step == 'limited' "
            "else i.read(step)\n"
            "    if not data: break\n"
            "    n += len(data); h.update(data)\n");
        EXPECT_EQ(eval_python("n"), std::to_string(size));
        WithGil gil;
        PyRef bytes = PyRef::steal(
            PyBytes_FromStringAndSize(body.data(), static_cast<Py_ssize_t>(body.size())));
        PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")), "b", bytes.get());
        EXPECT_EQ(eval_python("hashlib.sha1(b).digest() == h.digest()"), "True") << size;
        EXPECT_EQ(eval_python("i.read(), i.readline()"), "(b'', b'')");
    }
}

TEST_F(Input, LinesLongerThanABlockAreWhole) {
    open(std::string(200000, 'a') + "\n" + std::string(200000, 'b'));
    EXPECT_EQ(eval_python("[len(x) for x in i]"), "[200001, 200000]");
}

TEST_F(Input, RequestsWithoutABodyShareOneObject) {
    open("", true, kGet);
    run_python("first = i");
    open("", true, kGet);
    EXPECT_EQ(eval_python("i is first, i.read(), i.readline(), i.readlines(), list(i)"),
              "(True, b'', b'', [], [])");
    WithGil gil;
    streams_->end_input(input_.get());
    EXPECT_EQ(eval_python("i.read(1)"), "b''");
}

TEST_F(Input, RefusesAfterItsRequest) {
    open("abc");
    {
        WithGil gil;
        streams_->end_input(input_.get());
    }
    request_.reset();
    for (const char* call : {"i.read()", "i.readline()", "i.readlines()", "next(i)", "i.read(0)"})
        EXPECT_EQ(eval_python(call), "raised ValueError: wsgi.input used after its request ended")
            << call;
}

TEST_F(Input, WaitsForBytesOfAnEarlyDispatchedBodyWithoutTheGil) {
    open("first ", false);
    std::atomic<bool> is_waiting{false};
    std::thread sender([&] {
        // The reader holds the GIL until it waits, so taking it proves that the wait drops it.
        while (!is_waiting)
            std::this_thread::yield();
        { WithGil gil; }
        request_->body_goes_on("second", true);
    });
    is_waiting = true;
    EXPECT_EQ(eval_python("i.read()"), "b'first second'");
    sender.join();
}

TEST_F(Input, AReaderThatWaitsLearnsOfTheEndOfTheRequest) {
    for (const char* call : {"i.read()", "i.readline()", "next(i)"}) {
        open("first", false);
        std::string outcome;
        std::thread reader([&] { outcome = eval_python(call); });
        EXPECT_TRUE(eventually([&] { return request_->beats > 0; }));
        {
            WithGil gil;
            streams_->end_input(input_.get());
        }
        request_->exchange->finish();
        reader.join();
        EXPECT_EQ(outcome, "raised ValueError: wsgi.input used after its request ended") << call;
    }
}

TEST_F(Input, ReadOfAnArrivingBodyAsksForNoMoreThanItNeeds) {
    open("first", false);
    EXPECT_EQ(eval_python("i.read(3), i.readline(2)"), "(b'fir', b'st')");
}

TEST_F(Input, AShortBodyNeverLooksComplete) {
    const std::pair<int, const char*> cases[] = {
        {ECONNRESET,
         "raised ConnectionResetError: [Errno 104] the client ended the request body early"},
        {EPROTO, "raised OSError: [Errno 71] the client sent a malformed request body"},
        {ETIMEDOUT,
         "raised TimeoutError: [Errno 110] the client stopped sending the request body"}};
    for (const auto& [error, text] : cases) {
        for (const char* call :
             {"i.read()", "i.read(10)", "i.readline()", "i.readlines()", "list(i)"}) {
            open("half", false);
            request_->body_goes_on("", false, error);
            EXPECT_EQ(eval_python(call), text) << call;
            WithGil gil;
            EXPECT_EQ(streams_->input_error(input_.get()), error);
        }
    }
}

// ---------------------------------------------------------------------------------- wsgi.errors

class Errors : public Input {
protected:
    Errors() {
        WithGil gil;
        PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")), "err",
                             streams_->errors());
    }
};

TEST_F(Errors, WritesWholeLines) {
    EXPECT_EQ(eval_python("err.write('one\\ntw')"), "6");
    EXPECT_EQ(log_.text(), "one\n");
    run_python("err.write('o\\nthree'); err.writelines(['\\n', 'four'])");
    EXPECT_EQ(log_.text(), "one\ntwo\nthree\n");
    run_python("err.flush(); err.flush()");
    EXPECT_EQ(log_.text(), "one\ntwo\nthree\nfour\n");
}

TEST_F(Errors, SuitsPrintAndLogging) {
    run_python(
        "import logging\nprint('printed', 1, file=err)\n"
        "h = logging.StreamHandler(err); h.emit(logging.makeLogRecord({'msg': 'logged'}))");
    EXPECT_EQ(log_.text(), "printed 1\nlogged\n");
}

TEST_F(Errors, IsAnOpenFileThatIsNoTerminal) {
    EXPECT_EQ(eval_python("err.isatty(), err.closed"), "(False, False)");
}

TEST_F(Errors, TakesAnyTextAndOnlyText) {
    run_python("err.write('\\u20ac \\udc80\\n')");
    EXPECT_EQ(log_.text(), "\xe2\x82\xac \\udc80\n");
    for (const char* call : {"err.write(b'x')", "err.write(None)", "err.writelines([1])",
                             "err.writelines(1)", "err.write()"})
        EXPECT_TRUE(eval_python(call).starts_with("raised TypeError")) << call;
}

TEST_F(Errors, AnEndlessLineIsWrittenInPieces) {
    constexpr size_t kLineMax = 64 * 1024;  // LINE_MAX of streams.py
    run_python("err.write('x' * " + std::to_string(kLineMax) + ")");
    EXPECT_EQ(log_.text(), "");
    run_python("err.write('y')");
    EXPECT_GE(log_.text().size(), kLineMax + 1);
}

TEST_F(Errors, LinesOfTwoThreadsAreNotMixed) {
    run_python(
        "import threading\nerr.write('main ')\n"
        "t = threading.Thread(target=lambda: print('thread', file=err)); t.start(); t.join()\n"
        "err.write('line\\n')");
    EXPECT_EQ(log_.text(), "thread\nmain line\n");
}

TEST_F(Errors, WhatAThreadLeftUnfinishedIsWrittenAtTheEnd) {
    run_python(
        "import threading\n"
        "t = threading.Thread(target=err.write, args=('cut off',)); t.start(); t.join()\n"
        "err.flush()");
    EXPECT_EQ(log_.text(), "");
    WithGil gil;
    input_.reset();
    streams_.reset();
    EXPECT_EQ(log_.text(), "cut off\n");
    streams_ = std::make_unique<Streams>();
}

TEST_F(Errors, OutlivesItsServer) {
    run_python("err.write('left over')");
    {
        WithGil gil;
        input_.reset();
        streams_.reset();
    }
    EXPECT_EQ(log_.text(), "left over\n");
    run_python("err.write('ignored\\n'); err.flush()");
    EXPECT_EQ(log_.text(), "left over\n");
    WithGil gil;
    streams_ = std::make_unique<Streams>();
}

// --------------------------------------------------------------------------- wsgi.file_wrapper

class FileWrapper : public Input {
protected:
    FileWrapper() {
        WithGil gil;
        PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")), "wrap",
                             streams_->file_wrapper());
        run_python(
            "import io, gzip, tempfile\n"
            "class Plain:\n    def __init__(self): self.sizes = []\n"
            "    def read(self, size): self.sizes.append(size); return b'' if len(self.sizes) > 2 "
            "else b'x'\n");
    }
    /// "fd offset size" of what the kernel may send, or "no".
    std::string range(const std::string& expression) {
        run_python("w = wrap(" + expression + ")");
        WithGil gil;
        PyObject* wrapper =
            PyDict_GetItemString(PyModule_GetDict(PyImport_AddModule("__main__")), "w");
        EXPECT_TRUE(streams_->is_file_wrapper(wrapper));
        FileRange found;
        if (!streams_->real_file(wrapper, found)) {
            EXPECT_EQ(PyErr_Occurred(), nullptr);
            return "no";
        }
        return std::to_string(found.offset) + " " + std::to_string(found.size);
    }
};

TEST_F(FileWrapper, ReadsBlocksUntilAnEmptyOne) {
    EXPECT_EQ(eval_python("(p := Plain()) and list(wrap(p)), p.sizes"),
              "([b'x', b'x'], [8192, 8192, 8192])");
    EXPECT_EQ(eval_python("(p := Plain()) and list(wrap(p, 10)), p.sizes[0]"),
              "([b'x', b'x'], 10)");
    EXPECT_EQ(eval_python("(p := Plain()) and list(wrap(filelike=p, blksize=7)), p.sizes[0]"),
              "([b'x', b'x'], 7)");
    EXPECT_EQ(eval_python("wrap(Plain())[0]"), "b'x'");
    EXPECT_EQ(eval_python("wrap(io.BytesIO())[0]"), "raised IndexError: end of file");
}

TEST_F(FileWrapper, HasCloseOnlyIfTheFileHas) {
    EXPECT_EQ(eval_python("hasattr(wrap(Plain()), 'close'), hasattr(wrap(io.BytesIO()), 'close')"),
              "(False, True)");
    EXPECT_EQ(eval_python("(f := io.BytesIO()) and wrap(f).close(), f.closed"), "(None, True)");
    EXPECT_EQ(eval_python("(p := Plain()) and wrap(p).filelike is p, wrap(p).blksize"),
              "(True, 8192)");
}

TEST_F(FileWrapper, PassesOnWhatReadRaises) {
    EXPECT_TRUE(eval_python("list(wrap(object()))").starts_with("raised AttributeError"));
    EXPECT_TRUE(eval_python("wrap()").starts_with("raised TypeError"));
}

TEST_F(FileWrapper, KnowsRealFilesAndTheirOffset) {
    run_python(
        "f = tempfile.TemporaryFile(); f.write(b'0123456789'); f.flush()\n"
        "name = '/proc/self/fd/%d' % f.fileno()");
    EXPECT_EQ(range("open(name, 'rb')"), "0 10");
    EXPECT_EQ(range("(g := open(name, 'rb'), g.read(3))[0]"), "3 7");
    EXPECT_EQ(range("(g := open(name, 'rb'), g.seek(20))[0]"), "20 0");
    EXPECT_EQ(range("open(name, 'rb', buffering=0)"), "0 10");
    EXPECT_EQ(range("(f.seek(2), f)[1]"), "2 8");
    EXPECT_EQ(range("(f.truncate(8 << 30), f.seek(3 << 30), f)[2]"), "3221225472 5368709120");
}

TEST_F(FileWrapper, TakesNothingElseForARealFile) {
    for (const char* expression :
         {"io.BytesIO(b'x')", "open(name)", "gzip.open(io.BytesIO(b''))",
          "gzip.GzipFile(fileobj=open(name, 'rb'))",
          "io.BufferedReader(gzip.GzipFile(fileobj=open(name, 'rb')))",
          "type('S', (io.FileIO,), {})(name)", "(g := open(name, 'rb'), g.close())[0]",
          "open('/dev/null', 'rb')", "Plain()"}) {
        run_python("f = tempfile.TemporaryFile(); name = '/proc/self/fd/%d' % f.fileno()");
        EXPECT_EQ(range(expression), "no") << expression;
    }
}

TEST_F(FileWrapper, ACycleThroughItIsCollected) {
    run_python(
        "import gc, weakref\nclass C(Plain): pass\n"
        "c = C(); c.me = wrap(c); ref = weakref.ref(c); del c; gc.collect()");
    EXPECT_EQ(eval_python("ref()"), "None");
}

}  // namespace
}  // namespace gcorn
