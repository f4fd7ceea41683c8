// The settings table: its row type, access to it, and the help made from it alone.
//
// A setting exists in exactly one row of settings.cpp; command line, config file, environment
// defaults, help, manual page, completions and docs/settings.md all come from that row.
// Read-only data; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "config.h"

namespace gcorn {

/// The sections whose rows are a kind of their own.
inline constexpr std::string_view kServerHooks = "Server hooks", kOutOfScope = "Out of scope";

/// How a value is written, where the field's type alone does not say it.
enum class Form : uint8_t {
    Plain,          ///< by the type: text, integer, switch, repeatable list
    Csv,            ///< a list written as one comma-separated text
    Octal,          ///< an integer whose text may be octal (022) or prefixed (0o22, 0x12)
    OptionalValue,  ///< an option that may stand without its value
    Identity,       ///< a user or group: text or a number
    Object,         ///< a Python object only, no dotted name
    ClassName,      ///< text, a Python class, or a function that returns one of them
    LogFile,        ///< a file's name; only None means no file
};

/// Where the value lives; monostate: nowhere (out of scope, or accepted without effect).
using MemberPointer = std::variant<std::monostate, bool Config::*, int64_t Config::*,
                                   std::string Config::*, std::optional<bool> Config::*,
                                   StringList Config::*, StringMap Config::*, HookRef Config::*>;

/// Checks one text (each member of a list) and may convert it to its canonical form. Error: the
/// reason, quoting the value; code 0.
using Check = Status (*)(std::string& text);

struct Setting {
    std::string_view name;
    std::string_view section = {};  ///< its title; the first row of each names it
    std::string_view flags = {};    ///< "-w --workers"; "" = config file only
    std::string_view metavar = {};  ///< "INT"; "" for switches and hooks
    MemberPointer field = {};
    std::optional<std::string_view> fallback = {};  ///< default as text; unset reads as None
    Form form = Form::Plain;
    std::string_view choices = {};  ///< "auto, poll, inotify": the only texts accepted, any case
    Check check = nullptr;          ///< runs before choices, so it may resolve aliases
    int64_t max = INT32_MAX;        ///< of integers
    std::string_view allowed = {};  ///< what a refused value should have been; "" = choices or type
    std::string_view env = {};      ///< variable that replaces the default
    bool needs_restart = false;     ///< HUP does not change it
    int arity = 0;                  ///< hooks: positional parameters
    int arity_min = 0;              ///< the fewest that are accepted, too; 0 = arity only
    std::string_view help = {};     ///< one or two sentences, units included
    std::string_view note = {};     ///< any difference from gunicorn
    std::string_view needs = {};    ///< setting without which it has no effect; logged then
    std::string_view ignored = {};  ///< why it has no effect; logged once when it is set
    std::string_view refused = {};  ///< why it cannot be set at all
    /// The one value of a refused setting that is accepted, because it asks for nothing.
    std::optional<std::string_view> harmless = {};

    [[nodiscard]] bool is_hook() const { return section == kServerHooks; }
    /// An option that takes no value on the command line.
    [[nodiscard]] bool is_switch() const { return metavar.empty(); }
    /// An option that may be given several times: each adds to the list.
    [[nodiscard]] bool is_repeatable() const {
        return std::holds_alternative<StringList Config::*>(field) && form != Form::Csv;
    }
    /// "INT", "[MODE]" for a value that may be left out, "" for a switch.
    [[nodiscard]] std::string value_name() const {
        const std::string word(metavar);
        return form == Form::OptionalValue ? "[" + word + "]" : word;
    }
};

/// All rows, by section.
[[nodiscard]] std::span<const Setting> settings();
/// The row of this exact name, nullptr if there is none.
[[nodiscard]] const Setting* find_setting(std::string_view name);

/// Casts, checks and stores one value as a config file gives it. Error: kExitConfigError with the
/// reason, the setting, `source` unless it is empty, and what is allowed.
Status assign_field(Config& cfg, const Setting& setting, const Value& value,
                    std::string_view source);
/// "an integer from 0 to 511", for the tail of an error sentence.
[[nodiscard]] std::string allowed_text(const Setting& setting);
/// The value of a setting as Python sees it (an unset text is None).
[[nodiscard]] Value field_value(const Config& cfg, const Setting& setting);

/// The default as people say it: "off", "none", "127.0.0.1:8000, or $PORT".
[[nodiscard]] std::string default_text(const Setting& setting);

inline constexpr std::string_view kAppModule =
    "APP_MODULE is MODULE, MODULE:NAME or MODULE:FACTORY(ARGS); NAME defaults to 'application'.";

/// --help for a terminal, wrapped to `width` columns (60 to 120).
[[nodiscard]] std::string help_text(size_t width);

}  // namespace gcorn
