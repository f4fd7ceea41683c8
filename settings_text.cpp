// The help for a terminal, made from the settings table alone; its other forms: python/help.py.
#include <algorithm>

#include "base/text.h"
#include "command_line.h"
#include "settings.h"

namespace gcorn {
namespace {

/// Wraps `text` into lines of at most `width` columns, all but the first indented.
std::string wrap(std::string_view text, size_t width, size_t indent) {
    std::string out;
    size_t column = indent;
    for (const std::string_view word : split(text, ' ')) {
        if (column > indent && column + 1 + word.size() > width) {
            out += "\n" + std::string(indent, ' ');
            column = indent;
        } else if (column > indent) {
            out += ' ';
            ++column;
        }
        out += word;
        column += word.size();
    }
    return out;
}

std::string help_entry(const Setting& setting, size_t width) {
    constexpr size_t kIndent = 26;
    std::string entry = " ";
    for (const std::string_view flag : split(setting.flags, ' '))
        (entry += entry == " " ? " " : ", ") += flag;
    if (!setting.is_switch()) entry += " " + setting.value_name();
    if (entry.size() + 2 <= kIndent)
        entry.append(kIndent - entry.size(), ' ');
    else
        entry += "\n" + std::string(kIndent, ' ');
    const std::string text =
        std::string(setting.help) + " [default: " + default_text(setting) + "]";
    return entry + wrap(text, width, kIndent) + "\n";
}

}  // namespace

std::string default_text(const Setting& setting) {
    std::string text(setting.fallback.value_or("none"));
    if (std::holds_alternative<bool Config::*>(setting.field)) text = text == "True" ? "on" : "off";
    if (setting.name == "sendfile") text = "on";
    if (setting.name == "chdir") return "the current directory";
    if (text.empty()) text = "empty";
    return setting.env.empty() ? text : text + ", or $" + std::string(setting.env);
}

std::string help_text(size_t width) {
    constexpr size_t kWidthMin = 60, kWidthMax = 120;
    width = std::clamp(width, kWidthMin, kWidthMax);
    std::string out =
        std::string(kUsageLine) + "\n\n" +
        wrap("Serves a Python WSGI application over HTTP. " + std::string(kAppModule), width, 0) +
        "\n\n  gcorn -w 2 -b :8000 app:app    two workers, port 8000\n"
        "\n  -h, --help              Show this help.\n"
        "  -v, --version           Show the version.\n";
    std::string_view current;
    for (const Setting& setting : settings()) {
        if (setting.flags.empty() || setting.section == kOutOfScope) continue;
        if (current != setting.section) out += "\n" + std::string(setting.section) + ":\n";
        current = setting.section;
        out += help_entry(setting, width);
    }
    return out + "\n" +
           wrap(
               "Options may also be set in GUNICORN_CMD_ARGS, and settings and server hooks in "
               "./gcorn.conf.py or ./gunicorn.conf.py. All settings: docs/settings.md; exit "
               "codes: docs/exit-codes.md.",
               width, 0) +
           "\n";
}

}  // namespace gcorn
