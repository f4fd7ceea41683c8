// Config: the settings' values, typed, and how they are found: environment, config file, arguments.
//
// The table in settings.cpp says everything about a setting (flags, default, check, help); this
// room reads the sources, casts, checks, remembers where each value came from, and prints the
// result (--print-config). Field names are the settings' own names (gunicorn's config-file names),
// so code reads cfg.graceful_timeout. A Config is immutable once resolved and replaced as a whole
// on HUP. Included only by server, arbiter, worker, wsgi and python/*; lower rooms get option
// structs. Main thread of the arbiter; a finished Config may be read by any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "http_parse.h"
#include "log/log.h"
#include "os/process.h"

namespace gcorn {

struct CommandLine;  // command_line.h
struct Setting;      // settings.h

/// A hook or other Python object from the config file, opaque to the core (python/ knows what it
/// is).
struct HookRef {
    std::shared_ptr<void> object;  ///< null = not set; the deleter takes the GIL
    std::string name;              ///< for --print-config: "post_fork()"; with a null object: a
                                   ///< dotted name that python/ still has to import, or ""
    explicit operator bool() const { return object != nullptr; }
    bool operator==(const HookRef&) const = default;
};

/// A Python object of a type that no setting takes (floats, modules, ...).
struct OtherValue {
    std::string type_name;  ///< "module", "float", "list"
    std::string repr;       ///< for the error sentence
    bool operator==(const OtherValue&) const = default;
};

using StringList = std::vector<std::string>;
using StringMap = std::map<std::string, std::string>;

/// A setting's value as Python sees it; monostate is None. Lists and maps hold strings only: a list
/// with another member arrives as OtherValue.
/// Functions, classes and every other object that is meant for a setting whose field is a HookRef
/// arrive as HookRef, named by their dotted name.
using Value = std::variant<std::monostate, bool, int64_t, std::string, StringList, StringMap,
                           HookRef, OtherValue>;

/// As Python's str() prints it: None, True, 4, text, ['a', 'b'], {'K': 'v'}, <post_fork()>.
[[nodiscard]] std::string value_text(const Value& value);

/// Python's int(text, base). 10: leading zeros are allowed; 0: prefixes 0x, 0o and 0b are, but no
/// leading zeros; 8: as 0, but 022 is octal.
[[nodiscard]] std::optional<int64_t> parse_python_int(std::string_view text, int base);

/// Error::code of configuration errors (gunicorn's exit codes).
constexpr int kExitConfigError = 1;  ///< a value that is refused
constexpr int kExitUsageError = 2;   ///< a command line that cannot be read

/// The typed values. The constructor fills in the defaults of the table: they are written nowhere
/// else. Units and meanings are the table's, too.
class Config {
public:
    Config();

    // Config file
    std::string config;
    std::string wsgi_app;  ///< the application to load, wherever it was named
    // Server socket
    StringList bind;
    int64_t backlog{};
    bool reuse_port{};
    // Worker processes
    int64_t workers{};
    std::string worker_class;  ///< sync, gthread, gevent, gevent_websocket or eventlet
    int64_t threads{}, worker_connections{}, max_requests{}, max_requests_jitter{};
    int64_t max_worker_memory{};
    int64_t timeout{}, graceful_timeout{}, keepalive{};
    int64_t header_timeout{}, body_timeout{}, write_timeout{}, request_timeout{}, boot_timeout{};
    // Security
    int64_t limit_request_line{}, limit_request_fields{}, limit_request_field_size{};
    int64_t limit_request_body{};
    // Debugging
    bool reload{};
    std::string reload_engine;
    StringList reload_extra_files;
    bool spew{}, check_config{}, print_config{};
    // Server mechanics
    bool preload_app{};
    std::optional<bool> sendfile;  ///< unset means on
    std::string chdir;             ///< absolute once resolved
    bool daemon{};
    StringList raw_env;
    std::string pidfile, worker_tmp_dir;
    std::string user, group;  ///< as given; "" = unchanged
    int64_t umask{};
    bool initgroups{};
    std::string tmp_upload_dir;
    StringMap secure_scheme_headers;
    std::string forwarded_allow_ips;
    StringList forwarder_headers;
    std::string header_map;
    std::string pythonpath;
    std::string proxy_protocol;  ///< off, v1, v2 or auto, whatever alias was given
    std::string proxy_allow_ips;
    bool permit_obsolete_folding{}, strip_header_spaces{};
    bool permit_unconventional_http_method{}, permit_unconventional_http_version{};
    bool casefold_http_method{};
    std::string paste;
    StringList raw_paste_global_conf;
    // Logging
    std::string accesslog, access_log_format;
    std::string errorlog, error_log_format;
    std::string loglevel;  ///< lower case
    bool disable_redirect_access_to_syslog{}, capture_output{};
    HookRef logger_class;  ///< or a dotted name in logger_class.name
    std::string logconfig;
    HookRef logconfig_dict;
    std::string logconfig_json;
    bool syslog{};
    std::string syslog_addr, syslog_prefix, syslog_facility;
    bool enable_stdio_inheritance{};
    std::string statsd_host, statsd_prefix, dogstatsd_tags;
    bool enable_backlog_metric{};
    // Process naming
    std::string proc_name, default_proc_name;
    // TLS
    std::string certfile, keyfile, ca_certs, ciphers, ssl_version;
    int64_t cert_reqs{};
    bool do_handshake_on_connect{}, suppress_ragged_eofs{};
    // Hooks
    HookRef on_starting, on_reload, when_ready, pre_fork, post_fork, post_worker_init, worker_int,
        worker_abort, pre_exec, pre_request, post_request, child_exit, worker_exit,
        nworkers_changed, on_exit, ssl_context;

    /// Name in process titles and syslog tags: proc_name, else default_proc_name.
    [[nodiscard]] const std::string& process_name() const {
        return proc_name.empty() ? default_proc_name : proc_name;
    }
    [[nodiscard]] bool is_tls() const { return !certfile.empty() || !keyfile.empty(); }
};

/// The setting that was probably meant by a `name` that is none: one whose name is a single edit
/// away. "" if there is none.
[[nodiscard]] std::string_view nearest_setting(std::string_view name);

// --- Finding the values ---

/// What the resolver asks of the world outside; tests replace it.
struct Surroundings {
    Environment environment;  ///< as it was at the start
    std::string start_dir;    ///< absolute, where the server was started

    /// The process's own, with a copy of its environment: what a config file or the application
    /// sets later does not come from the operator. start_dir is $PWD if that names the current
    /// directory (it keeps symbolic links, as gunicorn does). Call once, before any chdir.
    static Surroundings of_process();

    [[nodiscard]] std::optional<std::string> variable(std::string_view name) const {
        return find_variable(environment, name);
    }
};

/// Which config file to read: -c of the command line, else -c of GUNICORN_CMD_ARGS, else
/// ./gcorn.conf.py, else ./gunicorn.conf.py, if they exist; "" = none. Relative paths are taken
/// from start_dir. Error: a named file does not exist. Executing it is left to python/config_file.
Result<std::string> choose_config_file(const CommandLine& arguments, const CommandLine& environment,
                                       const Surroundings& surroundings);

/// A Config with its history.
struct ResolvedConfig {
    Config config;
    std::map<std::string, std::string, std::less<>> sources;  ///< by setting; absent = default
    StringList notices;  ///< one sentence each, for the log: settings without effect, near misses
};

/// Applies the sources in rising precedence: call the apply_* in the order of their declaration,
/// then finish(). Each later source replaces the whole value. On HUP: a new builder.
class ConfigBuilder {
public:
    explicit ConfigBuilder(Surroundings surroundings) : surroundings_(std::move(surroundings)) {}

    /// WEB_CONCURRENCY, PORT, FORWARDED_ALLOW_IPS, SENDFILE. A bad value is an error only in
    /// finish(), and only if nothing has replaced it: hosting platforms set PORT for their own
    /// purposes.
    void apply_environment();
    /// What a config file assigned, in its order; unknown names are ignored, near misses get a
    /// notice.
    Status apply_file(std::string_view path,
                      const std::vector<std::pair<std::string, Value>>& names);
    /// Options of GUNICORN_CMD_ARGS, whose positional words are ignored, then the command line.
    Status apply_arguments(const CommandLine& arguments, const CommandLine& environment);

    /// Applies rules that involve several settings (chdir, worker class and threads, the
    /// application's name). Error: kExitConfigError, also if no application is named.
    Result<ResolvedConfig> finish();

private:
    Status assign(const Setting& setting, const Value& value, std::string_view source);
    void tell_what_has_no_effect();

    Surroundings surroundings_;
    ResolvedConfig resolved_;
    std::vector<std::pair<const Setting*, Error>> environment_errors_;
};

/// FILE and SECTION of a `paste` setting, FILE or FILE#SECTION; SECTION is "main" if none is named.
[[nodiscard]] std::pair<std::string_view, std::string_view> split_paste(std::string_view text);

/// raw_env as names and values.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> raw_environment(const Config& cfg);

/// Settings that differ between the two and cannot change without a restart, for one warning each;
/// `fresh` gets the running values back.
[[nodiscard]] std::vector<std::string_view> undo_restart_only_changes(const Config& running,
                                                                      Config& fresh);

// --- What lower rooms need ---

/// script_name: the environment's SCRIPT_NAME, the default mount point.
[[nodiscard]] HttpPolicy http_policy(const Config& cfg, std::string script_name);
/// Error: unknown user or group.
Result<LogOptions> log_options(const Config& cfg);

// --- Texts made from the values (those made from the table alone are in settings.h) ---

/// --print-config: "name<padding> = value  # source", sorted by name.
[[nodiscard]] std::string print_config_text(const ResolvedConfig& resolved);
/// For the debug log: "Current configuration:" and "  name: value" lines.
[[nodiscard]] std::string current_configuration(const Config& cfg);

}  // namespace gcorn
