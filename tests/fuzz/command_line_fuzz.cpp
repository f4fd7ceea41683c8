// Command lines and GUNICORN_CMD_ARGS: whatever the text, no crash and no over-read; words survive
// being quoted and split again; a line that is accepted means the same when written out in full.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "command_line.h"
#include "settings.h"

namespace {

using gcorn::StringList;

std::string quoted(const StringList& words) {
    std::string text;
    for (const std::string& word : words) {
        text += '\'';
        for (const char c : word) {
            if (c == '\'')
                text += "'\\''";
            else
                text += c;
        }
        text += "' ";
    }
    return text;
}

/// The same assignments with long options only and every value attached.
StringList written_out(const gcorn::CommandLine& line) {
    StringList words;
    for (const gcorn::Assignment& assignment : line.assignments) {
        const std::string_view flags = assignment.setting->flags;
        const std::string flag(flags.substr(flags.rfind(' ') + 1));
        if (assignment.setting->is_switch())
            words.push_back(flag);
        else if (const auto* list = std::get_if<StringList>(&assignment.value))
            for (const std::string& item : *list)
                words.push_back(flag + "=" + item);
        else
            words.push_back(flag + "=" + gcorn::value_text(assignment.value));
    }
    words.emplace_back("--");
    if (!line.app.empty() || !line.extra_words.empty()) words.push_back(line.app);
    words.insert(words.end(), line.extra_words.begin(), line.extra_words.end());
    return words;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // A copy of exactly this size, so that the sanitizer sees a read of one byte too many.
    const auto copy = std::make_unique<char[]>(size);
    for (size_t i = 0; i < size; ++i)
        copy[i] = static_cast<char>(data[i]);

    const auto words = gcorn::split_shell_words(std::string_view(copy.get(), size));
    if (!words) return 0;
    const auto again = gcorn::split_shell_words(quoted(*words));
    GCORN_CHECK(again.is_ok() && *again == *words);

    const auto line = gcorn::parse_command_line(*words);
    if (!line) {
        GCORN_CHECK(!line.message().empty());
        return 0;
    }
    if (line->help || line->version) return 0;
    const auto repeated = gcorn::parse_command_line(written_out(*line));
    GCORN_CHECK(repeated.is_ok() && repeated->app == line->app &&
                repeated->extra_words == line->extra_words &&
                repeated->assignments.size() == line->assignments.size());
    gcorn::Config first, second;
    for (size_t i = 0; i < line->assignments.size(); ++i) {
        const auto& [setting, value] = line->assignments[i];
        GCORN_CHECK(repeated->assignments[i].setting == setting);
        // Not where a check looks up users or files on this machine.
        if (setting->check != nullptr && setting->choices.empty()) continue;
        const bool accepted = assign_field(first, *setting, value, {}).is_ok();
        GCORN_CHECK(accepted ==
                    assign_field(second, *setting, repeated->assignments[i].value, {}).is_ok());
        GCORN_CHECK(field_value(first, *setting) == field_value(second, *setting));
    }
    return 0;
}
