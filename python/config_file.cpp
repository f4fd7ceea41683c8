#include "python/config_file.h"

#include <memory>
#include <variant>

#include "python/embedded.h"
#include "python/forked_copy.h"
#include "python/interpreter.h"
#include "settings.h"

namespace gcorn {
namespace {

/// The str's bytes as the system would write them; undecodable environment bytes survive (PEP 383).
/// Raises (surrogates that stand for no byte).
bool text_of(PyObject* text, std::string& out) {
    const PyRef bytes = PyRef::steal(PyUnicode_EncodeFSDefault(text));
    if (bytes) out = bytes_view(bytes.get());
    return static_cast<bool>(bytes);
}

/// "module.Name" of a class or function; the name of its type if it has none. Never raises.
std::string dotted_name(PyObject* object) {
    const PyRef module = attribute(object, "__module__");
    const PyRef name = module ? attribute(object, "__qualname__") : PyRef();
    std::string_view module_text, name_text;
    if (name && utf8_view(module.get(), module_text) && utf8_view(name.get(), name_text)) {
        return std::string(module_text) + "." + std::string(name_text);
    }
    PyErr_Clear();
    return Py_TYPE(object)->tp_name;
}

/// A value that no setting takes, described for the error message. Never raises.
Value other_value(PyObject* object) {
    OtherValue other{Py_TYPE(object)->tp_name, "?"};
    const PyRef repr = PyRef::steal(PyObject_Repr(object));
    std::string_view text;
    if (repr && utf8_view(repr.get(), text)) other.repr = text.substr(0, 200);
    PyErr_Clear();
    return other;
}

/// What gunicorn iterates over where it wants a list.
bool is_list_like(PyObject* object) {
    return PyList_Check(object) || PyTuple_Check(object) || PyAnySet_Check(object) ||
           PyDictKeys_Check(object) || PyIter_Check(object);
}

/// The strings in such an object; false without an exception if it has other members, or more than
/// any setting needs (itertools.cycle).
bool string_list(PyObject* object, StringList& out) {
    constexpr size_t kItemsMax = 100'000;
    const PyRef iterator = PyRef::steal(PyObject_GetIter(object));
    bool is_good = static_cast<bool>(iterator);
    while (is_good) {
        const PyRef item = PyRef::steal(PyIter_Next(iterator.get()));
        if (!item) break;
        is_good = out.size() < kItemsMax && PyUnicode_Check(item.get()) &&
                  text_of(item.get(), out.emplace_back());
    }
    is_good = is_good && PyErr_Occurred() == nullptr;
    PyErr_Clear();
    return is_good;
}

/// A dict of str to str; false without an exception if it has other members.
bool string_map(PyObject* object, StringMap& out) {
    PyObject *key = nullptr, *value = nullptr;  // borrowed
    Py_ssize_t position = 0;
    while (PyDict_Next(object, &position, &key, &value)) {
        std::string key_text, value_text;
        if (!PyUnicode_Check(key) || !PyUnicode_Check(value) || !text_of(key, key_text) ||
            !text_of(value, value_text)) {
            PyErr_Clear();
            return false;
        }
        out[std::move(key_text)] = std::move(value_text);
    }
    return true;
}

/// Converts by the Python type alone; bool before int, of which it is a subclass. Never raises.
Value plain_value(PyObject* object) {
    if (object == Py_None) return std::monostate();
    if (PyBool_Check(object)) return object == Py_True;
    if (PyLong_Check(object)) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
        return overflow == 0 ? Value(int64_t{number}) : other_value(object);
    }
    if (std::string text; PyUnicode_Check(object)) {
        if (text_of(object, text)) return text;
        PyErr_Clear();
    }
    if (StringList list; is_list_like(object) && string_list(object, list)) return list;
    if (StringMap map; PyDict_Check(object) && string_map(object, map)) return map;
    if (PyCallable_Check(object)) return make_hook_ref(object, dotted_name(object));
    return other_value(object);
}

/// A hook is imported if it is a dotted name, and must take its arguments. Error: the reason.
Result<Value> hook_value(const Setting& setting, PyObject* object) {
    const PyRef hook =
        call_embedded("_gcorn", "check_hook", PyRef::borrow(object), number(setting.arity));
    if (!hook) {
        std::string reason = take_error_text(false);
        const std::string_view type = "TypeError: ";
        if (reason.starts_with(type)) reason.erase(0, type.size());
        std::string arity = std::to_string(setting.arity);
        if (setting.arity_min != 0) arity = std::to_string(setting.arity_min) + " to " + arity;
        return Error{1, reason + " (" + std::string(setting.name) +
                            "; allowed: a function of arity " + arity + ", or its dotted name)"};
    }
    std::string name = dotted_name(hook.get());
    name.erase(0, name.rfind('.') + 1);
    return Value(make_hook_ref(hook.get(), name + "()"));
}

/// The value of one setting. Error: only for hooks and functions that should return a class; other
/// types are Config's to judge.
Result<Value> setting_value(const Setting& setting, PyObject* object) {
    if (object == Py_None) return Value();
    if (setting.is_hook()) return hook_value(setting, object);
    if (setting.form == Form::Object &&
        PyDict_Check(object)) {  // logconfig_dict: nested, so it stays Python's
        if (PyDict_GET_SIZE(object) == 0) return Value();
        return Value(make_hook_ref(object, "dict"));
    }
    if (setting.form == Form::ClassName && (PyFunction_Check(object) || PyMethod_Check(object))) {
        const PyRef made = PyRef::steal(PyObject_CallNoArgs(object));
        if (!made) return python_error(std::string(setting.name));
        return plain_value(made.get());
    }
    return plain_value(object);
}

/// Settings and their near misses; the latter only for Config to ask whether they were meant.
Status collect_values(PyObject* names, ConfigFile& file) {
    PyObject *key = nullptr, *object = nullptr;  // borrowed; `names` is our own copy
    Py_ssize_t position = 0;
    while (PyDict_Next(names, &position, &key, &object)) {
        std::string_view name;
        if (!PyUnicode_Check(key) || !utf8_view(key, name)) {
            PyErr_Clear();
            continue;
        }
        if (const Setting* setting = find_setting(name)) {
            auto value = setting_value(*setting, object);
            if (!value) return value.error();
            file.values.emplace_back(name, std::move(*value));
        } else if (!name.starts_with('_') && !nearest_setting(name).empty()) {
            file.values.emplace_back(name, plain_value(object));
        }
    }
    return {};
}

/// The inverse of plain_value(). Raises.
struct ToPython {
    PyRef operator()(std::monostate) const { return PyRef::borrow(Py_None); }
    PyRef operator()(bool flag) const { return boolean(flag); }
    PyRef operator()(int64_t value) const { return number(value); }
    PyRef operator()(const std::string& text) const { return path_str(text); }
    PyRef operator()(const StringList& list) const {
        Items items;
        for (const std::string& text : list)
            items.add(path_str(text));
        return items.take();
    }
    PyRef operator()(const StringMap& map) const {
        Facts facts;
        for (const auto& [key, value] : map)
            facts.add(key.c_str(), path_str(value));
        return facts.take();
    }
    PyRef operator()(const HookRef& hook) const {
        if (hook) return object_of(hook);
        return hook.name.empty() ? PyRef::borrow(Py_None) : utf8_str(hook.name);
    }
    PyRef operator()(const OtherValue& other) const { return utf8_str(other.repr); }
};

}  // namespace

Result<ConfigFile> load_config_file(const std::string& location, const std::string& directory) {
    WithGil gil;
    count_forks();
    Items names_of_settings;
    for (const Setting& setting : settings())
        names_of_settings.add(utf8_str(setting.name));
    const PyRef wanted = names_of_settings.take();
    const PyRef result = ending_copies([&] {  // on HUP a copy would be one more arbiter
        return call_embedded("_gcorn", "run_config", path_str(location), path_str(directory),
                             wanted);
    });
    PyObject *names = nullptr, *warnings = nullptr, *failure = nullptr;  // borrowed from result
    int status = 1;
    if (!result || !PyArg_ParseTuple(result.get(), "OOOi", &names, &warnings, &failure, &status))
        return Error{1, "Cannot run the config file: " + take_error_text()};
    if (failure != Py_None) return Error{status, joined_lines(PyRef::borrow(failure))};
    ConfigFile file;
    if (Status collected = collect_values(names, file); !collected) return collected.error();
    file.warnings = paths_of(PyRef::borrow(warnings));
    return file;
}

HookRef make_hook_ref(PyObject* object, std::string name) {
    const auto drop = [](void* last) {
        drop_reference(PyRef::steal(static_cast<PyObject*>(last)));
    };
    PyObject* held = PyRef::borrow(object).release();  // the handle's reference, see drop
    return HookRef{std::shared_ptr<void>(held, drop), std::move(name)};
}

PyRef make_config_view(const Config& cfg) {
    Facts values;
    for (const Setting& setting : settings()) {
        if (setting.field.index() == 0) continue;  // out of scope, or without effect
        values.add(setting.name.data(), std::visit(ToPython{}, field_value(cfg, setting)));
    }
    return call_embedded("_gcorn", "make_config", values.take());
}

Result<std::string> help_in_form(const std::string& form) {
    const WithGil gil;
    Items rows;
    for (const Setting& setting : settings()) {
        rows.add(Facts()
                     .add("name", utf8_str(setting.name))
                     .add("section", utf8_str(setting.section))
                     .add("flags", utf8_str(setting.flags))
                     .add("metavar", utf8_str(setting.metavar))
                     .add("value", utf8_str(setting.value_name()))
                     .add("default", utf8_str(default_text(setting)))
                     .add("choices", utf8_str(setting.choices))
                     .add("help", utf8_str(setting.help))
                     .add("note", utf8_str(setting.note))
                     .add("needs", utf8_str(setting.needs))
                     .add("refused", utf8_str(setting.refused))
                     .add("needs_restart", boolean(setting.needs_restart))
                     .add("is_hook", boolean(setting.is_hook()))
                     .add("is_optional", boolean(setting.form == Form::OptionalValue))
                     .add("is_repeatable", boolean(setting.is_repeatable()))
                     .take());
    }
    const PyRef text =
        call_object(name_in(run_embedded("help"), form.c_str()), utf8_str(kAppModule), rows.take());
    std::string out;
    if (!text || !text_of(text.get(), out)) return python_error("--help=" + form);
    return out;
}

}  // namespace gcorn
