// One setting by name, as a config file gives it.
#pragma once

#include "settings.h"

namespace gcorn::testing {

inline Status apply(Config& cfg, std::string_view name, const Value& value,
                    std::string_view source = {}) {
    return assign_field(cfg, *find_setting(name), value, source);
}

}  // namespace gcorn::testing
