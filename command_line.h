// The command line: words → assignments, in the grammar of Python's argparse.
//
// gunicorn's users rely on that grammar: -w4, -w 4, --workers=4, clusters (-DR), unique prefixes
// (--thread 2), options after the application, "--". The options are those of the settings table;
// GUNICORN_CMD_ARGS is split as a shell would, and read by the same grammar. What an option's text
// means beyond "an integer or not" is decided when a ConfigBuilder applies it. Pure; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config.h"

namespace gcorn {

inline constexpr std::string_view kUsageLine = "usage: gcorn [OPTIONS] [APP_MODULE]";

/// What --help=FORM can print besides the help for a terminal: functions of python/help.py.
inline constexpr std::string_view kHelpForms = "markdown, man, bash, zsh, fish";

struct Assignment {
    const Setting* setting = nullptr;
    Value value;  ///< of a repeatable option: all its values
};

struct CommandLine {
    std::vector<Assignment> assignments;  ///< one per setting; the last use of an option wins
    std::string app;                      ///< first positional word, "" if there is none
    StringList extra_words;               ///< further ones, ignored as in gunicorn
    bool help = false, version = false;   ///< -h, -v: what follows them was not read
    std::string help_form;                ///< of --help=FORM; "" = plain help

    /// The value of a text setting given here ("config"), nullptr if it is absent.
    [[nodiscard]] const std::string* text_of(std::string_view setting) const;
};

/// args without argv[0]. Error: kExitUsageError (unknown, ambiguous, value missing or malformed) or
/// kExitConfigError for an option that is out of scope, with the reason.
Result<CommandLine> parse_command_line(const StringList& args);

/// Words of GUNICORN_CMD_ARGS: POSIX shell quoting without expansions, as Python's shlex.split.
/// Error: an unfinished quote or escape; kExitConfigError.
Result<StringList> split_shell_words(std::string_view text);

/// What to print on stderr for a configuration error before exiting with its code: usage and error
/// lines for kExitUsageError, else gunicorn's blank line and "Error: <reason>".
[[nodiscard]] std::string startup_error_text(const Error& error);

}  // namespace gcorn
