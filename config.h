// Config: the settings' values, typed. The table in settings.cpp says everything else about them.
//
// Immutable once resolved; replaced as a whole on HUP. Field names are the settings' own names
// (gunicorn's config-file names), so code reads cfg.graceful_timeout. Included only by server,
// arbiter, worker, wsgi and python/*; lower rooms get option structs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace gcorn {

/// A hook or other Python object from the config file, opaque to the core (python/ knows what it is).
struct HookRef {
    std::shared_ptr<void> object;  ///< null = not set; the deleter takes the GIL
    std::string name;              ///< for --print-config: "post_fork()"
    explicit operator bool() const { return object != nullptr; }
};

class Config {
public:
    // Config file
    std::string config = "./gunicorn.conf.py";
    std::string wsgi_app;
    // Server socket
    std::vector<std::string> bind = {"127.0.0.1:8000"};
    int64_t backlog = 2048;
    bool reuse_port = false;
    // Worker processes
    int64_t workers = 1;
    std::string worker_class = "sync";
    int64_t threads = 1;
    int64_t worker_connections = 1000;
    int64_t max_requests = 0;
    int64_t max_requests_jitter = 0;
    int64_t timeout = 30;
    int64_t graceful_timeout = 30;
    int64_t keepalive = 2;
    int64_t header_timeout = 15;   // gcorn's own, seconds, 0 = off
    int64_t body_timeout = 30;     // gcorn's own
    int64_t write_timeout = 30;    // gcorn's own
    int64_t request_timeout = 0;   // gcorn's own
    int64_t boot_timeout = 0;      // gcorn's own
    // Security
    int64_t limit_request_line = 4094;
    int64_t limit_request_fields = 100;
    int64_t limit_request_field_size = 8190;
    int64_t limit_request_body = 0;  // gcorn's own, bytes, 0 = unlimited
    // Debugging
    bool reload = false;
    std::string reload_engine = "auto";
    std::vector<std::string> reload_extra_files;
    bool spew = false;
    bool check_config = false;
    bool print_config = false;
    // Server mechanics
    bool preload_app = false;
    std::optional<bool> sendfile;
    std::string chdir;
    bool daemon = false;
    std::vector<std::string> raw_env;
    std::string pidfile;
    std::string worker_tmp_dir;
    std::string user, group;         // as given; "" = unchanged
    int64_t umask = 0;
    bool initgroups = false;
    std::string tmp_upload_dir;
    std::map<std::string, std::string> secure_scheme_headers = {
        {"X-FORWARDED-PROTOCOL", "ssl"}, {"X-FORWARDED-PROTO", "https"}, {"X-FORWARDED-SSL", "on"}};
    std::string forwarded_allow_ips = "127.0.0.1,::1";
    std::vector<std::string> forwarder_headers = {"SCRIPT_NAME", "PATH_INFO"};
    std::string header_map = "drop";
    std::string pythonpath;
    std::string proxy_protocol = "off";
    std::string proxy_allow_ips = "127.0.0.1,::1";
    bool permit_obsolete_folding = false;
    bool strip_header_spaces = false;
    bool permit_unconventional_http_method = false;
    bool permit_unconventional_http_version = false;
    bool casefold_http_method = false;
    std::string paste;
    std::vector<std::string> raw_paste_global_conf;
    // Logging
    std::string accesslog;
    std::string access_log_format;   // default: log/access_log.h
    std::string errorlog = "-";
    std::string error_log_format = "text";  // gcorn's own: text or json
    std::string loglevel = "info";
    bool disable_redirect_access_to_syslog = false;
    bool capture_output = false;
    HookRef logger_class;            // or a dotted name in logger_class.name
    std::string logconfig;
    HookRef logconfig_dict;
    std::string logconfig_json;
    bool syslog = false;
    std::string syslog_addr = "udp://localhost:514";
    std::string syslog_prefix;
    std::string syslog_facility = "user";
    bool enable_stdio_inheritance = false;
    std::string statsd_host, statsd_prefix, dogstatsd_tags;
    bool enable_backlog_metric = false;
    // Process naming
    std::string proc_name;
    std::string default_proc_name = "gunicorn";
    // TLS
    std::string certfile, keyfile, ca_certs, ciphers;
    int64_t cert_reqs = 0;
    int64_t ssl_version = 2;
    bool do_handshake_on_connect = false;
    bool suppress_ragged_eofs = true;
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

}  // namespace gcorn
