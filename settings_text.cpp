// Texts made from the settings table alone: help, manual page, reference, shell completions.
#include <algorithm>

#include "base/text.h"
#include "command_line.h"
#include "settings.h"

namespace gcorn {
namespace {

constexpr std::string_view kAppModule =
    "APP_MODULE is MODULE, MODULE:NAME or MODULE:FACTORY(ARGS); without NAME it is 'application'.";

std::string replaced(std::string_view text, std::string_view what, std::string_view with) {
    std::string out(text);
    for (size_t at = 0; (at = out.find(what, at)) != out.npos; at += with.size())
        out.replace(at, what.size(), with);
    return out;
}

bool is_repeatable(const Setting& setting) {
    return std::holds_alternative<StringList Config::*>(setting.field) && setting.form != Form::Csv;
}

/// Options that do something: those that are out of scope are left to docs/settings.md.
bool is_offered(const Setting& setting) {
    return !setting.flags.empty() && setting.section != Section::OutOfScope;
}

/// "INT", "[MODE]" for a value that may be left out, "" for a switch.
std::string value_name(const Setting& setting) {
    std::string name(setting.metavar);
    return setting.form == Form::OptionalValue ? "[" + name + "]" : name;
}

/// The default as people say it: "off", "none", "127.0.0.1:8000, or $PORT".
std::string default_text(const Setting& setting) {
    std::string text(setting.fallback.value_or("none"));
    if (std::holds_alternative<bool Config::*>(setting.field)) text = text == "True" ? "on" : "off";
    if (setting.name == "sendfile") text = "on";
    if (setting.name == "chdir") return "the current directory";
    if (text.empty()) text = "empty";
    return setting.env.empty() ? text : text + ", or $" + std::string(setting.env);
}

/// Words of `text` in lines of at most `width` columns, the following ones indented.
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
    std::string entry = "  " + replaced(setting.flags, " ", ", ");
    if (!setting.is_switch()) entry += " " + value_name(setting);
    if (entry.size() + 2 <= kIndent)
        entry.append(kIndent - entry.size(), ' ');
    else
        entry += "\n" + std::string(kIndent, ' ');
    const std::string text =
        std::string(setting.help) + " [default: " + default_text(setting) + "]";
    return entry + wrap(text, width, kIndent) + "\n";
}

/// Calls `begin(section)` and then `row(setting)` for each section that has rows to show.
template <typename Begin, typename Row, typename Filter>
void for_each_section(Filter is_shown, Begin begin, Row row) {
    std::optional<Section> current;
    for (const Setting& setting : settings()) {
        if (!is_shown(setting)) continue;
        if (current != setting.section) begin(setting.section);
        current = setting.section;
        row(setting);
    }
}

// ------------------------------------------------------------------------- roff and markdown

/// Plain text for man(7): no escape, hyphen or leading dot is taken for something else.
std::string roff(std::string_view text) {
    std::string out = replaced(replaced(text, "\\", "\\e"), "-", "\\-");
    return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

std::string markdown_cell(std::string_view text) {
    return replaced(replaced(replaced(text, "|", "\\|"), "*", "\\*"), "_", "\\_");
}

std::string code_cell(std::string_view text) {
    return "`" + replaced(text, "|", "\\|") + "`";
}

std::string markdown_flags(const Setting& setting) {
    if (setting.flags.empty()) return "";
    std::string out;
    for (const std::string_view flag : split(setting.flags, ' '))
        out += (out.empty() ? "" : ", ") + code_cell(flag);
    return setting.is_switch() ? out : out + " " + markdown_cell(value_name(setting));
}

std::string markdown_row(const Setting& setting) {
    std::string text = markdown_cell(setting.help);
    if (!setting.refused.empty()) text = "Refused: " + markdown_cell(setting.refused) + ".";
    if (!setting.note.empty()) text += " *" + markdown_cell(setting.note) + "*";
    if (!setting.needs.empty()) text += " Needs `" + std::string(setting.needs) + "`.";
    if (setting.on_reload == OnReload::NeedsRestart) text += " A change needs a restart, not HUP.";
    std::string fallback;
    if (setting.refused.empty() && !setting.is_hook()) fallback = code_cell(default_text(setting));
    return "| " + code_cell(setting.name) + " | " + markdown_flags(setting) + " | " + fallback +
           " | " + text + " |\n";
}

// -------------------------------------------------------------------------------- completions

/// What may follow an option: its choices, separated by blanks; "" for anything else.
std::string choice_words(const Setting& setting) {
    return replaced(setting.choices, ", ", " ");
}

bool takes_path(const Setting& setting) {
    return setting.metavar == "FILE" || setting.metavar == "DIR";
}

std::string bash_completion() {
    std::string flags = "-h --help -v --version";
    std::string cases;
    for (const Setting& setting : settings()) {
        if (!is_offered(setting)) continue;
        flags += " " + std::string(setting.flags);
        if (setting.is_switch() || takes_path(setting)) continue;  // -o default offers files
        cases += "        " + replaced(setting.flags, " ", "|") + ") ";
        if (const std::string words = choice_words(setting); !words.empty())
            cases += "COMPREPLY=($(compgen -W \"" + words + "\" -- \"$current\")); ";
        else
            cases += "compopt +o default; ";
        cases += "return ;;\n";
    }
    return "_gcorn() {\n"
           "    local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    [[ $option == = ]] && option=${COMP_WORDS[COMP_CWORD-2]}\n"
           "    [[ $current == = ]] && current=\n"
           "    case $option in\n" +
           cases +
           "    esac\n"
           "    [[ $current == -* ]] && COMPREPLY=($(compgen -W \"" +
           flags +
           "\" -- \"$current\"))\n"
           "}\n"
           "complete -o default -F _gcorn gcorn\n";
}

std::string zsh_completion() {
    std::string out = "#compdef gcorn\n_arguments -s -S";
    const auto entry = [&](std::string_view flag, const Setting& setting, bool is_short) {
        std::string help = replaced(setting.help, "'", "'\\''");
        for (const char* special : {"[", "]", ":"})
            help = replaced(help, special, std::string("\\") + special);
        out += " \\\n  '";
        if (is_repeatable(setting))
            out += "*";
        else
            out += "(" + std::string(setting.flags) + ")";
        out += std::string(flag) +
               (setting.is_switch() ? ""
                : is_short          ? "+"
                                    : "=") +
               "[" + help + "]";
        if (!setting.is_switch()) {
            const std::string words = choice_words(setting);
            out += (setting.form == Form::OptionalValue ? "::" : ":") +
                   std::string(setting.metavar) + ":";
            if (!words.empty())
                out += "(" + words + ")";
            else if (takes_path(setting))
                out += setting.metavar == "DIR" ? "_files -/" : "_files";
        }
        out += "'";
    };
    for (const Setting& setting : settings()) {
        if (!is_offered(setting)) continue;
        for (const std::string_view flag : split(setting.flags, ' '))
            entry(flag, setting, flag.size() == 2);
    }
    return out +
           " \\\n  '(- *)'{-h,--help}'[show help]'"
           " \\\n  '(- *)'{-v,--version}'[show the version]'"
           " \\\n  '1:application:'\n";
}

std::string fish_completion() {
    std::string out =
        "complete -c gcorn -s h -l help -d 'show help'\n"
        "complete -c gcorn -s v -l version -d 'show the version'\n";
    for (const Setting& setting : settings()) {
        if (!is_offered(setting)) continue;
        out += "complete -c gcorn";
        for (const std::string_view flag : split(setting.flags, ' '))
            out += flag.size() == 2 ? " -s " + std::string(flag.substr(1))
                                    : " -l " + std::string(flag.substr(2));
        if (!setting.is_switch()) out += takes_path(setting) ? " -r" : " -x";
        if (!setting.choices.empty()) out += " -a '" + choice_words(setting) + "'";
        out += " -d '" + replaced(replaced(setting.help, "\\", "\\\\"), "'", "\\'") + "'\n";
    }
    return out;
}

/// --help, wrapped to `width` columns.
std::string help_text(size_t width) {
    constexpr size_t kWidthMin = 60, kWidthMax = 120;
    width = std::clamp(width, kWidthMin, kWidthMax);
    std::string out =
        std::string(kUsageLine) + "\n\n" +
        wrap("Serves a Python WSGI application over HTTP. " + std::string(kAppModule), width, 0) +
        "\n\n  gcorn -w 2 -b :8000 app:app    two workers, port 8000\n"
        "\n  -h, --help              Show this help.\n"
        "  -v, --version           Show the version.\n";
    for_each_section(
        is_offered,
        [&](Section section) { out += "\n" + std::string(section_title(section)) + ":\n"; },
        [&](const Setting& setting) { out += help_entry(setting, width); });
    return out + "\n" +
           wrap(
               "Options may also stand in GUNICORN_CMD_ARGS, and settings, with the server hooks, "
               "in ./gcorn.conf.py or ./gunicorn.conf.py. All of them: docs/settings.md; exit "
               "codes: docs/exit-codes.md.",
               width, 0) +
           "\n";
}

/// docs/settings.md.
std::string settings_markdown() {
    std::string out =
        "# Settings\n\n"
        "Generated from the table in `settings.cpp`; change it there. Sources, each replacing the "
        "ones before: default, environment variable, config file, `GUNICORN_CMD_ARGS`, command "
        "line. `gcorn --print-config` shows every value and where it came from. Words in italics "
        "say where gcorn differs from gunicorn.\n";
    for_each_section(
        [](const Setting&) { return true; },
        [&](Section section) {
            out +=
                "\n## " + std::string(section_title(section)) +
                "\n\n| Setting | Command line | Default | Meaning |\n| --- | --- | --- | --- |\n";
        },
        [&](const Setting& setting) { out += markdown_row(setting); });
    return out;
}

/// gcorn.1 in man(7) macros.
std::string settings_manpage() {
    std::string out =
        ".\\\" Generated from the settings table.\n"
        ".TH GCORN 1\n"
        ".SH NAME\ngcorn \\- serve a Python WSGI application over HTTP\n"
        ".SH SYNOPSIS\n.B gcorn\n[\\fIOPTIONS\\fR] [\\fIAPP_MODULE\\fR]\n"
        ".SH DESCRIPTION\n" +
        roff(kAppModule) +
        "\nSettings are read from the environment, a config file, GUNICORN_CMD_ARGS and the "
        "command line; each replaces the ones before.\n"
        ".SH OPTIONS\n";
    for_each_section(
        is_offered,
        [&](Section section) { out += ".SS " + std::string(section_title(section)) + "\n"; },
        [&](const Setting& setting) {
            out += ".TP\n\\fB" + replaced(roff(setting.flags), " ", "\\fR, \\fB") + "\\fR";
            if (!setting.is_switch()) out += " \\fI" + value_name(setting) + "\\fR";
            out += "\n" + roff(setting.help) + " [default: " + roff(default_text(setting)) + "]\n";
        });
    out +=
        ".SH CONFIG FILE\nThese settings and hooks have no option; a config file assigns them.\n";
    for (const Setting& setting : settings()) {
        if (!setting.flags.empty() || setting.section == Section::OutOfScope) continue;
        out += ".TP\n\\fB" + std::string(setting.name) + "\\fR\n" + roff(setting.help) + "\n";
    }
    return out +
           ".SH EXIT STATUS\n"
           ".TP\n0\nOrderly stop, or the checks passed.\n"
           ".TP\n1\nA setting or the start failed.\n"
           ".TP\n2\nThe command line could not be read.\n"
           ".TP\n3\nA worker could not start.\n"
           ".TP\n4\nThe application could not be found or is not callable.\n"
           ".TP\nother\nThe config file, or a hook of the start, asked for it by sys.exit().\n";
}

}  // namespace

std::string help_in_form(std::string_view form, size_t width) {
    if (form == "markdown") return settings_markdown();
    if (form == "man") return settings_manpage();
    if (form == "bash") return bash_completion();
    if (form == "zsh") return zsh_completion();
    if (form == "fish") return fish_completion();
    return help_text(width);
}

}  // namespace gcorn
