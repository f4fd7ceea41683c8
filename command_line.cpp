#include "command_line.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/text.h"
#include "settings.h"

namespace gcorn {
namespace {

/// One spelling of an option; no setting for -h and -v.
struct Option {
    std::string_view flag;
    const Setting* setting = nullptr;

    [[nodiscard]] bool is_switch() const { return setting == nullptr || setting->is_switch(); }
    [[nodiscard]] bool is_short() const { return flag.size() == 2; }
};

std::vector<Option> all_options() {
    std::vector<Option> options = {{"-h"}, {"--help"}, {"-v"}, {"--version"}};
    for (const Setting& setting : settings()) {
        if (setting.flags.empty()) continue;
        for (const std::string_view flag : split(setting.flags, ' '))
            options.push_back({flag, &setting});
    }
    return options;
}

Error usage_error(std::string message) {
    return Error{kExitUsageError, std::move(message)};
}

/// "argument -w/--workers: <why>", argparse's form.
Error argument_error(const Option& option, const std::string& why) {
    std::string flags(option.setting != nullptr ? option.setting->flags : option.flag);
    std::ranges::replace(flags, ' ', '/');
    return usage_error("argument " + flags + ": " + why);
}

/// Such words are values: no option looks like a number (-1, -.5). number: what follows the minus.
bool is_negative(std::string_view number) {
    return number.find_first_not_of("0123456789.") == number.npos &&
           std::ranges::count(number, '.') <= 1 && !number.ends_with('.');
}

/// What one word is to argparse.
enum class Kind : uint8_t { Word, Known, Unknown };
struct Reading {
    Kind kind = Kind::Word;
    Option option = {};
    std::optional<std::string> attached = {};  ///< value in the same word: -w4, --workers=4
};

class ArgumentParser {
public:
    explicit ArgumentParser(const StringList& args) : args_(args), options_(all_options()) {}

    Result<CommandLine> parse() {
        for (; next_ < args_.size() && !line_.help && !line_.version; ++next_) {
            const std::string& word = args_[next_];
            if (word == "--" && !only_words_) {
                only_words_ = true;
                continue;
            }
            Result<Reading> reading = only_words_ ? Reading{} : read(word);
            if (!reading) return reading.error();
            switch (reading->kind) {
                case Kind::Word: add_word(word); break;
                case Kind::Unknown: unknown_.push_back(word); break;
                case Kind::Known:
                    if (Status status = use(reading->option, std::move(reading->attached)); !status)
                        return status.error();
            }
        }
        if (!unknown_.empty() && !line_.help && !line_.version) return unknown_error();
        return std::move(line_);
    }

private:
    [[nodiscard]] const Option* find(std::string_view flag) const {
        const auto option = std::ranges::find(options_, flag, &Option::flag);
        return option == options_.end() ? nullptr : &*option;
    }

    /// argparse's order: exact (before '=', if there is one), unique prefix or attached value,
    /// negative number, anything with a blank in it; the rest are unknown options.
    [[nodiscard]] Result<Reading> read(const std::string& word) const {
        if (word.size() < 2 || word[0] != '-') return Reading{};
        const size_t equals = word.find('=');
        std::optional<std::string> attached;
        if (equals != std::string::npos) attached = word.substr(equals + 1);
        const std::string_view flag = std::string_view(word).substr(0, equals);
        if (const Option* exact = find(flag)) return Reading{Kind::Known, *exact, attached};
        if (word.starts_with("--")) {
            const Result<const Option*> option = find_prefix(flag);
            if (!option) return option.error();
            if (*option != nullptr) return Reading{Kind::Known, **option, attached};
        } else if (const Option* letter = find(word.substr(0, 2))) {
            return Reading{Kind::Known, *letter, word.substr(2)};
        }
        if (is_negative(std::string_view(word).substr(1)) || word.find(' ') != std::string::npos)
            return Reading{};
        return Reading{Kind::Unknown, {}, {}};
    }

    /// The option that `prefix` abbreviates, null if there is none. Several spellings of one
    /// setting are not ambiguous.
    [[nodiscard]] Result<const Option*> find_prefix(std::string_view prefix) const {
        const Option* first = nullptr;
        bool is_ambiguous = false;
        StringList candidates;
        for (const Option& option : options_) {
            if (!option.flag.starts_with(prefix)) continue;
            if (first == nullptr) first = &option;
            is_ambiguous = is_ambiguous || option.setting != first->setting;
            candidates.emplace_back(option.flag);
        }
        if (!is_ambiguous) return first;
        return usage_error("ambiguous option: " + std::string(prefix) + " could match " +
                           join(candidates, ", "));
    }

    void add_word(const std::string& word) {
        if (!has_app_)
            line_.app = word;
        else
            line_.extra_words.push_back(word);
        has_app_ = true;
    }

    Status use(Option option, std::optional<std::string> attached) {
        if (option.flag == "--help" && attached) return use_help(std::move(*attached));
        // Text after the letter of a switch holds further letters: -DR, -Dw4.
        while (option.is_switch() && attached) {
            const Option* following = nullptr;
            if (option.is_short() && !attached->empty())
                following = find("-" + attached->substr(0, 1));
            if (following == nullptr)
                return argument_error(option, "ignored explicit argument '" + *attached + "'");
            if (Status status = use_switch(option); !status) return status;
            option = *following;
            attached->erase(0, 1);
            if (attached->empty())
                attached.reset();
            else if (attached->front() == '=')
                attached->erase(0, 1);
        }
        if (option.is_switch()) return use_switch(option);
        if (!attached) {
            if (next_is_value())
                attached = args_[++next_];
            else if (option.setting->form != Form::OptionalValue)
                return argument_error(option, "expected one argument");
        }
        return use_value(option, attached.value_or("auto"));
    }

    /// "--" is none: it could abbreviate any option.
    [[nodiscard]] bool next_is_value() const {
        if (next_ + 1 >= args_.size()) return false;
        const Result<Reading> reading = read(args_[next_ + 1]);
        return reading && reading->kind == Kind::Word;
    }

    Status use_help(std::string form) {
        const auto forms = split_list(kHelpForms);
        if (std::ranges::find(forms, form) == forms.end())
            return argument_error(*find("--help"), "invalid choice: '" + form + "' (choose from " +
                                                       std::string(kHelpForms) + ")");
        line_.help = true;
        line_.help_form = std::move(form);
        return {};
    }

    Status use_switch(const Option& option) {
        if (option.setting == nullptr) {
            const bool is_help = option.flag == "-h" || option.flag == "--help";
            (is_help ? line_.help : line_.version) = true;
            return {};
        }
        // The one switch that turns something off is --no-sendfile, of a setting with three states.
        value_of(*option.setting) =
            !std::holds_alternative<std::optional<bool> Config::*>(option.setting->field);
        return {};
    }

    Status use_value(const Option& option, std::string text) {
        const Setting& setting = *option.setting;
        if (std::holds_alternative<int64_t Config::*>(setting.field)) {
            const auto number = parse_python_int(text, setting.form == Form::Octal ? 8 : 10);
            if (!number)
                return argument_error(option, "invalid int value: '" + text +
                                                  "' (allowed: " + allowed_text(setting) + ")");
            value_of(setting) = *number;
        } else if (setting.is_repeatable()) {
            Value& value = value_of(setting);
            if (auto* earlier = std::get_if<StringList>(&value))
                earlier->push_back(std::move(text));
            else
                value = StringList{std::move(text)};
        } else {
            value_of(setting) = std::move(text);
        }
        return {};
    }

    /// The value that the words so far gave the setting; None at first.
    Value& value_of(const Setting& setting) {
        auto& list = line_.assignments;
        const auto earlier = std::ranges::find(list, &setting, &Assignment::setting);
        return earlier != list.end() ? earlier->value
                                     : list.emplace_back(Assignment{&setting, {}}).value;
    }

    [[nodiscard]] Error unknown_error() const {
        constexpr size_t kTypoEditsMax = 2;
        const std::string_view typo =
            std::string_view(unknown_[0]).substr(0, unknown_[0].find('='));
        std::string_view nearest;
        size_t edits_min = kTypoEditsMax + 1;
        for (const Option& option : options_) {
            if (option.is_short()) continue;
            const size_t edits = edit_distance(typo, option.flag);
            if (edits < edits_min) edits_min = edits, nearest = option.flag;
        }
        std::string message = "unrecognized arguments: " + join(unknown_, " ");
        if (!nearest.empty()) message += " (did you mean " + std::string(nearest) + "?)";
        return usage_error(std::move(message));
    }

    const StringList& args_;
    const std::vector<Option> options_;
    size_t next_ = 0;  ///< index of the word being read
    bool only_words_ = false, has_app_ = false;
    StringList unknown_;
    CommandLine line_;
};

}  // namespace

const std::string* CommandLine::text_of(std::string_view setting) const {
    for (const Assignment& assignment : assignments)
        if (assignment.setting->name == setting) return std::get_if<std::string>(&assignment.value);
    return nullptr;
}

Result<CommandLine> parse_command_line(const StringList& args) {
    return ArgumentParser(args).parse();
}

Result<StringList> split_shell_words(std::string_view text) {
    StringList words;
    bool in_word = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            in_word = false;
            continue;
        }
        if (!in_word) words.emplace_back();
        in_word = true;
        std::string& word = words.back();
        if (c == '\\') {
            if (++i == text.size()) return Error{kExitConfigError, "No escaped character"};
            word += text[i];
        } else if (c == '\'' || c == '"') {
            for (++i; i < text.size() && text[i] != c; ++i) {
                // Between double quotes a backslash escapes only itself and the quote.
                const bool is_escape = c == '"' && text[i] == '\\' && i + 1 < text.size() &&
                                       (text[i + 1] == '"' || text[i + 1] == '\\');
                if (is_escape) ++i;
                word += text[i];
            }
            if (i == text.size()) return Error{kExitConfigError, "No closing quotation"};
        } else {
            word += c;
        }
    }
    return words;
}

std::string startup_error_text(const Error& error) {
    if (error.code != kExitUsageError) return "\nError: " + error.message + "\n";
    return std::string(kUsageLine) + "\ngcorn: error: " + error.message + "\n";
}

}  // namespace gcorn
