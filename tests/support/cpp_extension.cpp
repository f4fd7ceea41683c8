// An extension module in C++, for Python inside a server under test: its exceptions, streams,
// locales and threads come from the shared libstdc++, whatever the server itself contains of that.
#include <Python.h>

#include <locale>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace {

std::string message_of_a_bad_pattern() {
    try {
        (void)std::regex("(");
    } catch (const std::regex_error&) {
        return "caught";
    }
    return "not thrown";
}

PyObject* greet(PyObject*, PyObject*) {
    std::ostringstream text;
    text.imbue(std::locale::classic());
    text << message_of_a_bad_pattern() << ' ' << 3.5 << ' ' << std::boolalpha << true;
    std::thread([&text] {
        try {
            throw std::runtime_error(" in a thread");
        } catch (const std::exception& error) {
            text << error.what();
        }
    }).join();
    return PyUnicode_FromString(text.str().c_str());
}

PyMethodDef methods[] = {{"greet", greet, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "cpp_extension",
                      nullptr,
                      -1,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit_cpp_extension() {
    return PyModule_Create(&module);
}
