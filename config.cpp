#include "config.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/text.h"
#include "command_line.h"
#include "os/process.h"
#include "settings.h"

namespace gcorn {
namespace {

/// A string as Python's repr() quotes it, as far as settings need it.
std::string python_quote(std::string_view text) {
    const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
    std::string out(1, quote);
    for (const char c : text) {
        if (c == '\n' || c == '\0') {
            out += c == '\n' ? "\\n" : "\\x00";
            continue;
        }
        if (c == '\\' || c == quote) out += '\\';
        out += c;
    }
    return out += quote;
}

// ------------------------------------------------------------------------------------- casts

/// True for the default value of each type, which is what Python takes for false.
bool is_falsy(const Value& value) {
    return std::visit([](const auto& held) { return held == std::decay_t<decltype(held)>(); },
                      value);
}

/// One text of a setting: its own check, then its choices.
Status check_text(const Setting& setting, std::string& text) {
    if (setting.check != nullptr)
        if (Status status = setting.check(text); !status) return status;
    if (setting.choices.empty()) return {};
    text = lower(text);
    const auto choices = split_list(setting.choices);
    if (std::ranges::find(choices, text) != choices.end()) return {};
    return Error{0, "Invalid " + std::string(setting.name) + ": '" + text + "'"};
}

/// Any value as a text, where the setting's form lets other types stand for one.
Result<std::string> cast_text(const Setting& setting, const Value& value) {
    if (const auto* text = std::get_if<std::string>(&value)) {
        const std::string_view trimmed = trim(*text, " \t\r\n\f\v");
        // Perhaps from a shell variable that is not set: nobody wants to lose the log by accident.
        if (setting.form == Form::LogFile && trimmed.empty()) return Error{0, "'' isn't writable"};
        // Nor to serve as root.
        if (setting.form == Form::Identity && trimmed.empty())
            return Error{0, "No such " + std::string(setting.name) + ": ''"};
        return std::string(trimmed);
    }
    if (std::holds_alternative<std::monostate>(value)) return std::string();
    const bool is_number = std::holds_alternative<int64_t>(value);
    if (setting.form == Form::Identity && is_number) return value_text(value);
    if (setting.form == Form::OptionalValue && (is_number || std::holds_alternative<bool>(value)))
        return value_text(value);
    if (const auto* object = std::get_if<HookRef>(&value);
        object && setting.form == Form::ClassName)
        return object->name;
    return Error{0, "Not a string: " + value_text(value)};
}

/// Stores a value through the field's pointer; one overload for each type of field. The rules are
/// gunicorn's validators.
struct Cast {
    Config& cfg;
    const Setting& setting;
    const Value& value;

    Status operator()(bool Config::*field) const {
        std::optional<bool> flag;
        if (Status status = cast_bool(flag); !status) return status;
        cfg.*field = flag.value_or(false);
        return {};
    }
    Status operator()(std::optional<bool> Config::*field) const { return cast_bool(cfg.*field); }

    Status operator()(int64_t Config::*field) const {
        std::optional<int64_t> number;
        if (const auto* integer = std::get_if<int64_t>(&value)) number = *integer;
        if (const auto* flag = std::get_if<bool>(&value)) number = *flag ? 1 : 0;
        if (const auto* text = std::get_if<std::string>(&value))
            number = parse_python_int(*text, setting.form == Form::Octal ? 8 : 0);
        if (!number) return Error{0, "Not an integer: " + value_text(value)};
        if (*number < 0) return Error{0, "Value must be positive: " + std::to_string(*number)};
        if (*number > setting.max)
            return Error{0, "Value must be at most " + shown(setting.max) + ": " + shown(*number)};
        cfg.*field = *number;
        return {};
    }

    Status operator()(std::string Config::*field) const {
        Result<std::string> text = cast_text(setting, value);
        if (!text) return text.error();
        if (Status status = check_text(setting, *text); !status) return status;
        cfg.*field = std::move(*text);
        return {};
    }
    Status operator()(std::monostate) const {  // checked, then forgotten
        if (setting.is_switch()) {
            std::optional<bool> flag;
            if (Status status = cast_bool(flag); !status) return status;
            std::string text = flag ? value_text(*flag) : "None";
            return check_text(setting, text);
        }
        Result<std::string> text = cast_text(setting, value);
        return text ? check_text(setting, *text) : Status{text.error()};
    }

    Status operator()(StringList Config::*field) const {
        StringList items;
        if (const auto* list = std::get_if<StringList>(&value); list && !is_csv())
            items = *list;
        else if (const auto* text = std::get_if<std::string>(&value); text && is_csv())
            for (const std::string_view item : split_list(*text))
                items.emplace_back(item);
        else if (text && !text->empty())
            items = {*text};
        else if (!is_falsy(value))
            return Error{0, "Not a string: " + value_text(value)};
        for (std::string& item : items) {
            item = trim(item, " \t\r\n\f\v");
            if (Status status = check_text(setting, item); !status) return status;
        }
        cfg.*field = std::move(items);
        return {};
    }

    Status operator()(StringMap Config::*field) const {
        const auto* map = std::get_if<StringMap>(&value);
        if (map == nullptr) return Error{0, "Value is not a dictionary: " + value_text(value)};
        cfg.*field = *map;
        return {};
    }

    Status operator()(HookRef Config::*field) const {
        if (!setting.is_hook() && is_falsy(value)) {
            cfg.*field = HookRef{};
            return {};
        }
        const auto* object = std::get_if<HookRef>(&value);
        const auto* text = std::get_if<std::string>(&value);
        if (object == nullptr && (text == nullptr || setting.form == Form::Object)) {
            const char* const why = setting.is_hook()              ? "Value is not callable: "
                                    : setting.form == Form::Object ? "Value is not a dictionary: "
                                                                   : "Value is not a class: ";
            return Error{0, why + value_text(value)};
        }
        HookRef hook = object != nullptr ? *object : HookRef{nullptr, std::string(trim(*text))};
        if (Status status = check_text(setting, hook.name); !status) return status;
        cfg.*field = hook.name.empty() ? HookRef{} : std::move(hook);  // a default's own name
        return {};
    }

private:
    [[nodiscard]] bool is_csv() const { return setting.form == Form::Csv; }

    /// As the setting is written: "0777" in octal, else decimal.
    [[nodiscard]] std::string shown(int64_t number) const {
        char text[32];
        const char* const format = setting.form == Form::Octal ? "%#llo" : "%lld";
        std::snprintf(text, sizeof text, format, static_cast<long long>(number));
        return text;
    }

    Status cast_bool(std::optional<bool>& out) const {
        const auto* flag = std::get_if<bool>(&value);
        if (flag != nullptr || std::holds_alternative<std::monostate>(value)) {
            out = flag != nullptr ? std::optional(*flag) : std::nullopt;
            return {};
        }
        const auto* text = std::get_if<std::string>(&value);
        if (text == nullptr) return Error{0, "Invalid type for casting: " + value_text(value)};
        const std::string word = lower(trim(*text));
        if (word != "true" && word != "false") return Error{0, "Invalid boolean: " + *text};
        out = word == "true";
        return {};
    }
};

/// The default as Python would have assigned it.
Value fallback_value(const Setting& setting) {
    if (!setting.fallback) return {};
    const std::string_view text = *setting.fallback;
    if (!std::holds_alternative<StringMap Config::*>(setting.field)) return std::string(text);
    StringMap map;
    for (const std::string_view item : split_list(text)) {
        const size_t colon = item.find(": ");
        map.emplace(item.substr(0, colon), item.substr(colon + 2));
    }
    return map;
}

/// The text in `value` that has a NUL byte, which no setting can use: paths and names go to C
/// functions. Null: there is none.
const std::string* text_with_nul(const Value& value) {
    const auto has_nul = [](const std::string& text) { return text.find('\0') != text.npos; };
    if (const auto* text = std::get_if<std::string>(&value); text && has_nul(*text)) return text;
    if (const auto* list = std::get_if<StringList>(&value))
        for (const std::string& item : *list)
            if (has_nul(item)) return &item;
    if (const auto* map = std::get_if<StringMap>(&value))
        for (const auto& [key, item] : *map)
            if (has_nul(key) || has_nul(item)) return has_nul(key) ? &key : &item;
    return nullptr;
}

}  // namespace

std::string allowed_text(const Setting& setting) {
    if (!setting.allowed.empty()) return std::string(setting.allowed);
    if (!setting.choices.empty()) return std::string(setting.choices);
    if (setting.is_hook()) return "a function, or its dotted name";
    if (std::holds_alternative<int64_t Config::*>(setting.field)) {
        const std::string max = std::to_string(setting.max);
        return setting.form == Form::Octal ? "0 to 0777" : "an integer from 0 to " + max;
    }
    if (std::holds_alternative<bool Config::*>(setting.field) ||
        std::holds_alternative<std::optional<bool> Config::*>(setting.field) ||
        std::holds_alternative<std::monostate>(setting.field))
        return "True or False";
    if (std::holds_alternative<StringMap Config::*>(setting.field))
        return "a dictionary of strings";
    if (setting.is_repeatable()) return "a string or a list of strings";
    return "a string";
}

namespace {

std::string from(std::string_view source) {
    return source.empty() ? "" : ", from " + std::string(source);
}

/// The harmless value of a refused setting: config files and command lines that name every setting
/// with its default are common.
bool is_harmless(const Setting& setting, const Value& value) {
    if (!setting.harmless) return false;
    if (value == Value{false}) return *setting.harmless == "off";
    if (std::holds_alternative<int64_t>(value)) return value_text(value) == *setting.harmless;
    if (const auto* text = std::get_if<std::string>(&value)) return *text == *setting.harmless;
    return is_falsy(value) && setting.harmless->empty();
}

/// "WHAT (NAME, from SOURCE; allowed: …)".
Error refusal(const std::string& what, std::string_view name, std::string_view source,
              const std::string& allowed) {
    return Error{kExitConfigError,
                 what + " (" + std::string(name) + from(source) + "; allowed: " + allowed + ")"};
}

}  // namespace

Status assign_field(Config& cfg, const Setting& setting, const Value& value,
                    std::string_view source) {
    if (is_harmless(setting, value)) return {};
    if (!setting.refused.empty())
        return Error{kExitConfigError, std::string(setting.name) + " cannot be set" + from(source) +
                                           ": " + std::string(setting.refused)};
    const std::string* const bad = text_with_nul(value);
    Status status = bad != nullptr ? Status{Error{0, "NUL byte in " + python_quote(*bad)}}
                                   : std::visit(Cast{cfg, setting, value}, setting.field);
    if (status) return status;
    return refusal(status.message(), setting.name, source, allowed_text(setting));
}

// ------------------------------------------------------------------------------------ values

std::optional<int64_t> parse_python_int(std::string_view text, int base) {
    text = trim(text, " \t\r\n\f\v");
    const bool is_negative = text.starts_with('-');
    if (is_negative || text.starts_with('+')) text.remove_prefix(1);
    const bool has_zero = text.size() > 1 && text[0] == '0';
    const size_t prefix =
        has_zero && base != 10 ? std::string_view("box").find(to_lower(text[1])) : text.npos;
    if (prefix != text.npos) {
        base = std::array{2, 8, 16}[prefix];
        text.remove_prefix(2);
    } else if (base == 0 && has_zero && text.find_first_not_of('0') != text.npos) {
        return std::nullopt;
    } else if (base == 0 || !has_zero) {
        base = 10;
    }
    uint64_t magnitude = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, magnitude, base);
    if (stop != end || error != std::errc{} || magnitude > INT64_MAX) return std::nullopt;
    const auto value = static_cast<int64_t>(magnitude);
    return is_negative ? -value : value;
}

std::string value_text(const Value& value) {
    struct Text {
        std::string operator()(std::monostate) const { return "None"; }
        std::string operator()(bool flag) const { return flag ? "True" : "False"; }
        std::string operator()(int64_t number) const { return std::to_string(number); }
        std::string operator()(const std::string& text) const { return text; }
        std::string operator()(const StringList& list) const {
            StringList items;
            for (const std::string& item : list)
                items.push_back(python_quote(item));
            return "[" + join(items, ", ") + "]";
        }
        std::string operator()(const StringMap& map) const {
            StringList items;
            for (const auto& [key, item] : map)
                items.push_back(python_quote(key) + ": " + python_quote(item));
            return "{" + join(items, ", ") + "}";
        }
        std::string operator()(const HookRef& hook) const {
            if (hook) return "<" + hook.name + ">";
            return hook.name.empty() ? "None" : hook.name;
        }
        std::string operator()(const OtherValue& other) const { return other.repr; }
    };
    return std::visit(Text{}, value);
}

Config::Config() {
    for (const Setting& setting : settings()) {
        const Value value = fallback_value(setting);
        if (std::holds_alternative<std::monostate>(value)) continue;
        GCORN_CHECK(std::visit(Cast{*this, setting, value}, setting.field).is_ok());
    }
}

Value field_value(const Config& cfg, const Setting& setting) {
    struct Read {
        const Config& cfg;
        const Setting& setting;
        Value operator()(std::monostate) const { return {}; }
        Value operator()(std::string Config::*field) const {
            if ((cfg.*field).empty() && !setting.fallback) return {};
            return cfg.*field;
        }
        Value operator()(std::optional<bool> Config::*field) const {
            return cfg.*field ? Value{*(cfg.*field)} : Value{};
        }
        Value operator()(HookRef Config::*field) const {
            const HookRef& hook = cfg.*field;
            return hook || !hook.name.empty() ? Value{hook} : Value{};
        }
        Value operator()(bool Config::*field) const { return cfg.*field; }
        Value operator()(int64_t Config::*field) const { return cfg.*field; }
        Value operator()(StringList Config::*field) const { return cfg.*field; }
        Value operator()(StringMap Config::*field) const { return cfg.*field; }
    };
    return std::visit(Read{cfg, setting}, setting.field);
}

std::string_view nearest_setting(std::string_view name) {
    constexpr size_t kNameBytesMin = 4;  // shorter words are one edit away from too many
    if (name.size() < kNameBytesMin) return {};
    std::string_view nearest;
    for (const Setting& setting : settings()) {
        if (setting.refused.empty() && edit_distance(name, setting.name) == 1)
            nearest = setting.name;
    }
    // Someone who writes preload thinks of --preload, not of reload.
    const std::string option = "--" + std::string(name);
    for (const Setting& setting : settings())
        if (setting.flags == option) nearest = setting.name;
    return nearest;
}

// ---------------------------------------------------------------------------------- sources

namespace {

bool is_directory(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::is_directory(path, ignored);
}

/// Whether an ini file configures Python's logging, as PasteDeploy's may (gunicorn: pasterapp).
bool has_loggers(const std::string& path) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);)
        if (trim(line, " \t\r") == "[loggers]") return true;
    return false;
}

/// `path` seen from `base`, without "." and ".." (as Python's os.path.normpath).
std::string absolute_path(const std::string& base, const std::string& path) {
    std::string absolute = (std::filesystem::path(base) / path).lexically_normal().string();
    if (absolute.size() > 1 && absolute.ends_with('/')) absolute.pop_back();
    return absolute;
}

}  // namespace

Surroundings Surroundings::of_process() {
    Surroundings surroundings;
    for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry)
        surroundings.environment.emplace_back(*entry);
    const Result<std::string> here = current_directory();
    if (here) surroundings.start_dir = *here;  // if it is gone, finish() asks for another
    return surroundings;
}

Result<std::string> choose_config_file(const CommandLine& arguments, const CommandLine& environment,
                                       const Surroundings& surroundings) {
    const auto find = [&](const std::string& path) {
        return ::access(absolute_path(surroundings.start_dir, path).c_str(), F_OK) == 0 ? 0 : errno;
    };
    for (const CommandLine* line : {&arguments, &environment}) {
        const std::string* named = line->text_of("config");
        if (named == nullptr || named->empty()) continue;
        if (named->starts_with("python:")) return *named;
        const std::string path = named->substr(named->starts_with("file:") ? 5 : 0);
        if (const int error = find(path); error != 0)
            return refusal(
                "'" + path + "' " + (error == ENOENT ? "doesn't exist" : std::strerror(error)),
                "config", line == &arguments ? "command line" : "GUNICORN_CMD_ARGS",
                "an existing file, file:FILE or python:MODULE");
        return *named;
    }
    for (const char* usual : {"./gcorn.conf.py", "./gunicorn.conf.py"})
        if (find(usual) == 0) return std::string(usual);
    return std::string();
}

Status ConfigBuilder::assign(const Setting& setting, const Value& value, std::string_view source) {
    Config& cfg = resolved_.config;
    if (Status status = assign_field(cfg, setting, value, source); !status) return status;
    resolved_.sources.insert_or_assign(std::string(setting.name), std::string(source));
    // An alias of a choice is accepted, but not silently.
    const auto* given = std::get_if<std::string>(&value);
    const auto* field = std::get_if<std::string Config::*>(&setting.field);
    if (given != nullptr && field != nullptr && !setting.choices.empty() &&
        !iequals(trim(*given), cfg.**field))
        resolved_.notices.push_back(std::string(setting.name) + " '" + *given +
                                    "' is treated as '" + cfg.**field + "'");
    return {};
}

void ConfigBuilder::apply_environment() {
    for (const Setting& setting : settings()) {
        if (setting.env.empty() || setting.env == "PWD") continue;  // PWD is in start_dir
        const std::string variable(setting.env);
        const std::optional<std::string> text = surroundings_.variable(variable);
        if (!text) continue;
        Value value = *text;
        if (variable == "PORT") value = "0.0.0.0:" + *text;  // an empty one counts, as in gunicorn
        if (variable == "SENDFILE") {
            const std::string word = lower(*text);
            value = word == "y" || word == "1" || word == "yes" || word == "true";
        }
        if (Status status = assign(setting, value, "environment " + variable); !status)
            environment_errors_.emplace_back(&setting, status.error());
    }
}

Status ConfigBuilder::apply_file(std::string_view path,
                                 const std::vector<std::pair<std::string, Value>>& names) {
    const auto is_assigned = [&](std::string_view name) {
        return std::ranges::find(names, name, &std::pair<std::string, Value>::first) != names.end();
    };
    resolved_.sources.insert_or_assign("config", "found in the start directory");
    for (const auto& [name, value] : names) {
        if (const Setting* setting = find_setting(name)) {
            if (Status status = assign(*setting, value, path); !status) return status;
            if (name == "config")
                resolved_.notices.push_back("config has no effect inside a config file: " +
                                            std::string(path) + " is the one that is read");
            continue;
        }
        // A helper such as WORKERS beside workers is no typo, nor is an import: a module, or a
        // callable whose nearest setting is no hook (decouple's Config).
        const auto* other = std::get_if<OtherValue>(&value);
        const std::string_view near = nearest_setting(name);
        const bool is_import =
            (other != nullptr && other->type_name == "module") ||
            (std::holds_alternative<HookRef>(value) && !near.empty() &&
             !std::holds_alternative<HookRef Config::*>(find_setting(near)->field));
        if (!near.empty() && !is_import && !is_assigned(near))
            resolved_.notices.push_back(std::string(path) + " sets " + name +
                                        ", which is not a setting; did you mean " +
                                        std::string(near) + "?");
    }
    resolved_.config.config = path;
    return {};
}

Status ConfigBuilder::apply_arguments(const CommandLine& arguments,
                                      const CommandLine& environment) {
    for (const auto& [line, source] :
         {std::pair(&environment, "GUNICORN_CMD_ARGS"), std::pair(&arguments, "command line")})
        for (const Assignment& assignment : line->assignments)
            if (Status status = assign(*assignment.setting, assignment.value, source); !status)
                return status;
    if (!arguments.app.empty()) {
        resolved_.config.wsgi_app = arguments.app;
        resolved_.sources.insert_or_assign("wsgi_app", "command line");
    }
    if (!arguments.extra_words.empty())
        resolved_.notices.push_back("only the first word names the application; ignored: " +
                                    join(arguments.extra_words, " "));
    return {};
}

Result<ResolvedConfig> ConfigBuilder::finish() {
    Config& cfg = resolved_.config;
    auto& sources = resolved_.sources;
    for (const auto& [setting, error] : environment_errors_)
        if (!sources.contains(setting->name)) return error;
    const auto refused = [&](const std::string& what, const char* name) {
        const auto source = sources.find(name);
        return refusal(what, name, source == sources.end() ? "" : source->second,
                       allowed_text(*find_setting(name)));
    };
    if (cfg.bind.empty() && !surroundings_.variable("LISTEN_FDS"))  // systemd's sockets replace it
        return refused("there is no address to listen on", "bind");
    cfg.chdir = absolute_path(surroundings_.start_dir, cfg.chdir);
    if (surroundings_.start_dir.empty() && !cfg.chdir.starts_with('/'))
        return refused("the current directory is gone", "chdir");
    if (!is_directory(cfg.chdir)) return refused("can't chdir to '" + cfg.chdir + "'", "chdir");
    if (!cfg.tmp_upload_dir.empty() && !is_directory(absolute_path(cfg.chdir, cfg.tmp_upload_dir)))
        return refused("'" + cfg.tmp_upload_dir + "' is not a directory", "tmp_upload_dir");
    if (cfg.worker_class == "sync" && cfg.threads > 1) {
        cfg.worker_class = "gthread";
        sources["worker_class"] = "threads is above 1";
    }
    if (cfg.spew && cfg.daemon)
        return Error{
            kExitConfigError,
            "spew prints to the terminal, which daemon detaches from: set only one of them"};
    if (cfg.wsgi_app.empty() && cfg.paste.empty())
        return Error{kExitConfigError, "No application module specified."};
    if (const std::string ini =
            absolute_path(surroundings_.start_dir, std::string(split_paste(cfg.paste).first));
        !sources.contains("logconfig") && !cfg.paste.empty() && has_loggers(ini)) {
        cfg.logconfig = ini;
        sources["logconfig"] = "[loggers] of the paste file";
    }
    if (!sources.contains("default_proc_name")) {
        cfg.default_proc_name = cfg.wsgi_app.empty() ? cfg.paste : cfg.wsgi_app;
        sources["default_proc_name"] = "the application's name";
    }
    tell_what_has_no_effect();
    return std::move(resolved_);
}

void ConfigBuilder::tell_what_has_no_effect() {
    const Config defaults, &cfg = resolved_.config;
    const auto notice = [&](std::string_view name, const std::string& why) {
        resolved_.notices.push_back(std::string(name) + " has no effect" + why);
    };
    for (const Setting& setting : settings()) {
        if (!setting.ignored.empty() && resolved_.sources.contains(setting.name))
            notice(setting.name, ": " + std::string(setting.ignored));
        const auto is_default = [&](const Setting& row) {
            return field_value(cfg, row) == field_value(defaults, row);
        };
        if (setting.needs.empty() || is_default(setting)) continue;
        const Setting& needed = *find_setting(setting.needs);
        if (is_default(needed))
            notice(setting.name, " while " + std::string(needed.name) + " is " +
                                     value_text(field_value(cfg, needed)));
    }
    if (cfg.worker_connections == 0)
        resolved_.notices.emplace_back("worker_connections is 0: no worker accepts connections");
    if (cfg.threads > 1 && cfg.worker_class != "gthread")
        notice("threads", " while worker_class is " + cfg.worker_class);
    if (!cfg.paste.empty() && !cfg.wsgi_app.empty())
        notice("wsgi_app", ": paste names the application");
    if (cfg.reload && cfg.preload_app)
        notice("reload", ": code loaded by preload_app stays until a restart");
}

std::pair<std::string_view, std::string_view> split_paste(std::string_view text) {
    const size_t hash = text.find('#');
    if (hash == std::string_view::npos) return {text, "main"};
    return {text.substr(0, hash), text.substr(hash + 1)};
}

std::vector<std::pair<std::string, std::string>> raw_environment(const Config& cfg) {
    std::vector<std::pair<std::string, std::string>> variables;
    for (const std::string& entry : cfg.raw_env) {
        const size_t equals = entry.find('=');  // there is one, or resolving would have failed
        variables.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
    }
    return variables;
}

std::vector<std::string_view> undo_restart_only_changes(const Config& running, Config& fresh) {
    std::vector<std::string_view> names;
    for (const Setting& setting : settings()) {
        if (!setting.needs_restart || field_value(running, setting) == field_value(fresh, setting))
            continue;
        names.push_back(setting.name);
        std::visit(
            [&](auto field) {
                if constexpr (!std::is_same_v<decltype(field), std::monostate>)
                    fresh.*field = running.*field;
            },
            setting.field);
    }
    return names;
}

// -------------------------------------------------------------------------------- conversions

HttpPolicy http_policy(const Config& cfg, std::string script_name) {
    HttpPolicy policy;
    policy.limit_request_line = static_cast<uint32_t>(cfg.limit_request_line);
    policy.limit_request_fields = static_cast<uint32_t>(cfg.limit_request_fields);
    policy.limit_request_field_size = static_cast<uint32_t>(cfg.limit_request_field_size);
    policy.limit_request_body = static_cast<uint64_t>(cfg.limit_request_body);
    policy.header_map = cfg.header_map == "refuse"      ? HeaderMap::Refuse
                        : cfg.header_map == "dangerous" ? HeaderMap::Dangerous
                                                        : HeaderMap::Drop;
    policy.forwarder_headers = cfg.forwarder_headers;
    std::vector<SchemeHeaders::Entry> scheme_headers;
    for (const auto& [name, value] : cfg.secure_scheme_headers)
        scheme_headers.emplace_back(upper(name), value);
    policy.secure_scheme_headers = SchemeHeaders(std::move(scheme_headers));
    policy.permit_obsolete_folding = cfg.permit_obsolete_folding;
    policy.strip_header_spaces = cfg.strip_header_spaces;
    policy.permit_unconventional_http_method = cfg.permit_unconventional_http_method;
    policy.permit_unconventional_http_version = cfg.permit_unconventional_http_version;
    policy.casefold_http_method = cfg.casefold_http_method;
    policy.script_name = std::move(script_name);
    return policy;
}

Result<LogOptions> log_options(const Config& cfg) {
    LogOptions options;
    const Result<Owner> owner = find_owner(cfg.user, cfg.group);
    if (!owner) return owner.error();
    if (owner->user) options.owner_uid = *owner->user;
    if (owner->group) options.owner_gid = *owner->group;
    options.errorlog = cfg.errorlog;
    options.accesslog = cfg.accesslog;
    GCORN_CHECK(parse_level(cfg.loglevel, options.level));
    options.json = cfg.error_log_format == "json";
    options.capture_output = cfg.capture_output;
    options.syslog = cfg.syslog;
    options.access_to_syslog = !cfg.disable_redirect_access_to_syslog;
    options.syslog_addr = cfg.syslog_addr;
    options.syslog_prefix = cfg.syslog_prefix;
    options.process_name = cfg.process_name();
    options.syslog_facility = cfg.syslog_facility;
    return options;
}

// -------------------------------------------------------------------------------------- texts

namespace {

/// Rows that have a value, sorted by name, as gunicorn prints them.
std::vector<const Setting*> printed_settings() {
    std::vector<const Setting*> rows;
    for (const Setting& setting : settings())
        if (!std::holds_alternative<std::monostate>(setting.field)) rows.push_back(&setting);
    std::ranges::sort(rows, {}, &Setting::name);
    return rows;
}

}  // namespace

std::string print_config_text(const ResolvedConfig& resolved) {
    const auto rows = printed_settings();
    size_t width = 0;
    for (const Setting* row : rows)
        width = std::max(width, row->name.size());
    std::string out;
    for (const Setting* row : rows) {
        const auto source = resolved.sources.find(row->name);
        out += row->name;
        out.append(width - row->name.size(), ' ');
        out += " = " + value_text(field_value(resolved.config, *row)) + "  # " +
               (source == resolved.sources.end() ? "default" : source->second) + "\n";
    }
    return out;
}

std::string current_configuration(const Config& cfg) {
    std::string out = "Current configuration:";
    for (const Setting* row : printed_settings())
        out += "\n  " + std::string(row->name) + ": " + value_text(field_value(cfg, *row));
    return out;
}

}  // namespace gcorn
