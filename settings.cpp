// The table. Longer than other rooms because every setting is here, and only here.
#include "settings.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "log/access_log.h"
#include "log/statsd.h"
#include "log/syslog.h"
#include "net/address.h"
#include "os/process.h"

namespace gcorn {
namespace {

// ------------------------------------------------------------------------------------ checks

std::string quoted(std::string_view text) {
    return "'" + std::string(text) + "'";
}

template <typename T>
Status status_of(const Result<T>& result) {
    return result ? Status{} : Status{result.error()};
}

Status bind_spec(std::string& text) {
    const Result<BindSpec> spec = parse_bind(text);
    if (!spec) return spec.error();
    return status_of(find_owner(spec->user.value_or(""), spec->group.value_or("")));
}
Status known_user(std::string& text) {
    return status_of(find_owner(text, ""));
}
Status known_group(std::string& text) {
    return status_of(find_owner("", text));
}
/// What another room says of the text.
template <auto kParse>
Status judged_by(std::string& text) {
    const auto verdict = kParse(text);
    return verdict ? Status{} : Status{verdict.error()};
}

Status upper_case(std::string& text) {
    text = upper(text);
    return {};
}

Status log_level(std::string& text) {
    if (iequals(text, "warn")) text = "warning";
    if (iequals(text, "fatal")) text = "critical";
    return {};
}

Status proxy_mode(std::string& text) {
    text = lower(text);
    if (text.empty() || text == "false" || text == "0" || text == "none") text = "off";
    if (text == "true" || text == "1") text = "auto";
    return {};
}

Status http_only(std::string& text) {
    if (!iequals(text, "uwsgi")) return {};
    return Error{0,
                 "gcorn does not speak the uwsgi protocol: use proxy_pass instead of uwsgi_pass"};
}

Status key_value(std::string& text) {
    const size_t equals = text.find('=');
    if (equals != 0 && equals != std::string::npos) return {};
    return Error{0, "environment setting " + quoted(text) + " invalid"};
}

/// gunicorn's default, by any of its names or as the class itself, means our own logger.
Status logger_name(std::string& text) {
    for (const char* own : {"simple", "gunicorn.glogging.Logger", "_gcorn_logging.Logger",
                            "gunicorn.instrument.statsd.Statsd"})
        if (text == own) text.clear();
    return {};
}

/// A file or directory to watch; one with wildcards is expanded by the reloader and may match
/// nothing yet.
Status watched_file(std::string& text) {
    struct stat info {};
    if (text.find_first_of("*?[") != std::string::npos) return {};
    if (::stat(text.c_str(), &info) == 0) return {};
    return Error{0, "File " + text + " does not exist."};
}

Status paste_file(std::string& text) {
    struct stat info {};
    const std::string path(split_paste(text).first);
    if (path.empty() || (::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode))) return {};
    return Error{0, quoted(path) + " not found"};
}

/// Names of worker classes: ours, gunicorn's older ones, and the class paths that config files use.
constexpr std::pair<std::string_view, std::string_view> kWorkerClasses[] = {
    {"sync", "sync"},
    {"gunicorn.workers.sync.SyncWorker", "sync"},
    {"meinheld.gmeinheld.MeinheldWorker", "sync"},  // a WSGI server in C, its event loop in front
    {"egg:meinheld#gunicorn_worker", "sync"},
    {"gthread", "gthread"},
    {"gunicorn.workers.gthread.ThreadWorker", "gthread"},
    {"gevent", "gevent"},
    {"gevent_wsgi", "gevent"},
    {"gevent_pywsgi", "gevent"},
    {"gunicorn.workers.ggevent.GeventWorker", "gevent"},
    {"gunicorn.workers.ggevent.GeventPyWSGIWorker", "gevent"},
    {"gevent_websocket", "gevent_websocket"},
    {"geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "gevent_websocket"},
    {"eventlet", "eventlet"},
    {"gunicorn.workers.geventlet.EventletWorker", "eventlet"},
};

Status worker_class_name(std::string& text) {
    constexpr std::string_view kEgg = "egg:gunicorn#";
    if (text.starts_with(kEgg)) text.erase(0, kEgg.size());
    for (const auto& [given, meant] : kWorkerClasses) {
        if (given != text) continue;
        text = meant;
        return {};
    }
    if (text == "asgi" || text.find("uvicorn") != std::string::npos)
        return Error{
            0, "worker class " + quoted(text) + " is for ASGI applications: gcorn serves WSGI"};
    if (text == "tornado")
        return Error{0, "worker class 'tornado' is not supported: run Tornado with its own server"};
    return Error{0,
                 "worker class " + quoted(text) +
                     " is unknown: gcorn has its own worker classes and cannot run others. What a "
                     "subclass does when it starts, a post_fork or post_worker_init hook can do"};
}

// ------------------------------------------------------------------------------------- table

#if defined(__APPLE__)
constexpr std::string_view kSyslogAddr = "unix:///var/run/syslog";
#elif defined(__FreeBSD__) || defined(__DragonFly__)
constexpr std::string_view kSyslogAddr = "unix:///var/run/log";
#elif defined(__OpenBSD__)
constexpr std::string_view kSyslogAddr = "unix:///dev/log";
#else
constexpr std::string_view kSyslogAddr = "udp://localhost:514";
#endif

constexpr std::string_view kTrustedByDefault = "127.0.0.1,::1";
constexpr std::string_view kNetworksAllowed =
    "a comma-separated list of IP addresses and networks such as 10.0.0.0/8, or *";

constexpr std::string_view kNoAsgi = "gcorn serves WSGI applications, not ASGI";
constexpr std::string_view kNoHttp2 = "gcorn speaks HTTP/1.1; HTTP/2 belongs to the proxy in front";
constexpr std::string_view kNoDirty = "gcorn has no dirty workers; use a task queue";
constexpr std::string_view kNoSmuggling =
    "a request with both Transfer-Encoding and Content-Length is always refused (request "
    "smuggling)";
constexpr std::string_view kNoControl = "gcorn has no control socket; it is controlled by signals";

Status only_without_control_socket(std::string& flag) {
    if (flag == "True") return {};
    return Error{0, "Value is " + flag + ": " + std::string(kNoControl)};
}
constexpr std::string_view kNoUwsgi = "gcorn does not speak the uwsgi protocol";

/// harmless: gunicorn's default, if it has one that asks for nothing.
constexpr Setting refused(std::string_view name, std::string_view flags, std::string_view metavar,
                          std::string_view why,
                          std::optional<std::string_view> harmless = std::nullopt) {
    return {.name = name,
            .section = kOutOfScope,
            .flags = flags,
            .metavar = metavar,
            .refused = why,
            .harmless = harmless};
}

constexpr Setting hook(std::string_view name, int arity, HookRef Config::*field,
                       std::string_view help) {
    return {.name = name, .section = kServerHooks, .field = field, .arity = arity, .help = help};
}

/// Fills in what a row may leave out: the section of the row before it, INT for an integer's value,
/// and a switch's False.
template <size_t N>
constexpr std::array<Setting, N> completed(std::array<Setting, N> rows) {
    std::string_view section;
    for (Setting& row : rows) {
        row.section = section = row.section.empty() ? section : row.section;
        const bool is_integer = std::holds_alternative<int64_t Config::*>(row.field);
        if (is_integer && row.metavar.empty()) row.metavar = "INT";
        const bool is_switch = std::holds_alternative<bool Config::*>(row.field);
        if (is_switch && !row.fallback) row.fallback = "False";
    }
    return rows;
}

// clang-format off
constexpr auto kSettings = completed(std::to_array<Setting>({
    // --- Config file ---
    {.name = "config", .section = "Config file", .flags = "-c --config", .metavar = "FILE",
     .field = &Config::config, .fallback = "./gunicorn.conf.py",
     .help = "Config file: PATH, file:PATH or python:MODULE. Ordinary Python whose module-level "
             "names are settings.",
     .note = "./gcorn.conf.py is looked for before ./gunicorn.conf.py."},
    {.name = "wsgi_app", .field = &Config::wsgi_app,
     .help = "The application to serve if the command line names none: MODULE, MODULE:NAME or "
             "MODULE:FACTORY(ARGS)."},

    // --- Server socket ---
    {.name = "bind", .section = "Server socket", .flags = "-b --bind", .metavar = "ADDRESS",
     .field = &Config::bind, .fallback = "127.0.0.1:8000", .check = bind_spec,
     .allowed = "HOST, HOST:PORT, :PORT, [IPV6]:PORT, unix:PATH or fd://N", .env = "PORT",
     .help = "Where to listen: HOST:PORT, :PORT, [IPV6]:PORT, unix:PATH or fd://N. Repeat it for "
             "several sockets.",
     .note = "unix:PATH?mode=0660&user=U&group=G also sets owner and permissions."},
    {.name = "backlog", .flags = "--backlog", .field = &Config::backlog, .fallback = "2048",
     .needs_restart = true,
     .help = "Maximum connections that wait in the kernel to be accepted; capped at somaxconn."},
    {.name = "reuse_port", .flags = "--reuse-port", .field = &Config::reuse_port,
     .needs_restart = true,
     .help = "Give each worker a listening socket of its own (SO_REUSEPORT), so that the kernel "
             "spreads connections."},

    // --- Worker processes ---
    {.name = "workers", .section = "Worker processes", .flags = "-w --workers",
     .field = &Config::workers, .fallback = "1", .env = "WEB_CONCURRENCY",
     .help = "Worker processes. Start with two per core; TTIN and TTOU change the number at run "
             "time."},
    {.name = "worker_class", .flags = "-k --worker-class", .metavar = "NAME",
     .field = &Config::worker_class, .fallback = "sync", .form = Form::ClassName,
     .choices = "sync, gthread, gevent, gevent_websocket, eventlet", .check = worker_class_name,
     .help = "How a worker runs the application: sync (one call at a time), gthread (threads), "
             "gevent or eventlet (greenlets). sync with several threads is gthread.",
     .note = "In no class does a slow client hold up a worker. gevent_websocket is gevent with the "
             "package gevent-websocket, whose class path is accepted, too; others cannot be loaded."},
    {.name = "threads", .flags = "--threads", .field = &Config::threads, .fallback = "1",
     .help = "Application threads of each gthread worker."},
    {.name = "worker_connections", .flags = "--worker-connections",
     .field = &Config::worker_connections, .fallback = "1000",
     .help = "Maximum client connections per worker, and greenlets per gevent or eventlet worker.",
     .note = "Applies to every class. At the limit, a new connection replaces the one idle "
             "longest, or else that of the slowest client."},
    {.name = "max_requests", .flags = "--max-requests", .field = &Config::max_requests,
     .fallback = "0",
     .help = "Replace a worker after this many requests, against slow memory leaks; 0 means "
             "never."},
    {.name = "max_requests_jitter", .flags = "--max-requests-jitter",
     .field = &Config::max_requests_jitter, .fallback = "0",
     .help = "Add a random number up to this to max_requests, so that workers do not restart "
             "together.",
     .needs = "max_requests"},
    {.name = "max_worker_memory", .flags = "--max-worker-memory", .metavar = "MIB",
     .field = &Config::max_worker_memory, .fallback = "0",
     .help = "Replace a worker that uses more than this many MiB of memory (RSS), one at a time; "
             "0 means never.",
     .note = "Not in gunicorn."},
    {.name = "timeout", .flags = "-t --timeout", .field = &Config::timeout, .fallback = "30",
     .help = "Seconds without a heartbeat after which a worker is killed; 0 means never. For "
             "sync, this is the longest application call."},
    {.name = "graceful_timeout", .flags = "--graceful-timeout", .field = &Config::graceful_timeout,
     .fallback = "30",
     .help = "Seconds a stopping worker may take to finish its requests."},
    {.name = "keepalive", .flags = "--keep-alive", .field = &Config::keepalive, .fallback = "2",
     .help = "Seconds an idle connection stays open for its next request; 0 closes it after each "
             "response. Behind a load balancer, use more than its idle timeout.",
     .note = "Works in sync, too: idle connections occupy no worker."},
    {.name = "header_timeout", .flags = "--header-timeout", .field = &Config::header_timeout,
     .fallback = "15",
     .help = "Seconds a client may take to send a whole request head; 0 means no limit.",
     .note = "Not in gunicorn."},
    {.name = "body_timeout", .flags = "--body-timeout", .field = &Config::body_timeout,
     .fallback = "30",
     .help = "Seconds of silence allowed within a request body; 0 means no limit.",
     .note = "Not in gunicorn."},
    {.name = "write_timeout", .flags = "--write-timeout", .field = &Config::write_timeout,
     .fallback = "30",
     .help = "Seconds a client may go without reading any of its response; 0 means no limit.",
     .note = "Not in gunicorn."},
    {.name = "request_timeout", .flags = "--request-timeout", .field = &Config::request_timeout,
     .fallback = "0",
     .help = "Seconds one request may spend in the application, in every worker class; 0 means "
             "no limit beyond timeout.",
     .note = "Not in gunicorn."},
    {.name = "boot_timeout", .flags = "--boot-timeout", .field = &Config::boot_timeout,
     .fallback = "0",
     .help = "Seconds a worker may take to load the application; 0 means no limit.",
     .note = "Not in gunicorn. timeout does not apply to loading."},

    // --- Security ---
    {.name = "limit_request_line", .section = "Security", .flags = "--limit-request-line",
     .field = &Config::limit_request_line, .fallback = "4094",
     .help = "Maximum bytes in a request line; anything above 8190 means 8190, and 0 leaves only "
             "the limit of 1 MiB for the whole head. A longer one gets 414."},
    {.name = "limit_request_fields", .flags = "--limit-request-fields",
     .field = &Config::limit_request_fields, .fallback = "100",
     .help = "Maximum header fields in a request; 0 and anything above 32768 mean 32768. More "
             "get 431."},
    {.name = "limit_request_field_size",
     .flags = "--limit-request-field_size --limit-request-field-size",
     .field = &Config::limit_request_field_size, .fallback = "8190",
     .help = "Maximum bytes in one header field, name and line end included; 0 leaves only the "
             "limit of 1 MiB for the whole head. A longer one gets 431.",
     .note = "gunicorn has only the spelling with the underscore."},
    {.name = "limit_request_body", .flags = "--limit-request-body", .metavar = "BYTES",
     .field = &Config::limit_request_body, .fallback = "0", .max = INT64_MAX,
     .help = "Maximum bytes in a request body; 0 means no limit. A larger one gets 413 before "
             "the application is called.",
     .note = "Not in gunicorn."},

    // --- Debugging ---
    {.name = "reload", .section = "Debugging", .flags = "--reload", .field = &Config::reload,
     .help = "Restart workers when a loaded Python file changes. For development."},
    {.name = "reload_engine", .flags = "--reload-engine", .metavar = "NAME",
     .field = &Config::reload_engine, .fallback = "auto", .choices = "auto, poll, inotify",
     .help = "How changes are noticed: inotify (Linux), poll (once a second), or auto, the "
             "better of the two.",
     .note = "inotify is built in.",
     .needs = "reload"},
    {.name = "reload_extra_files", .flags = "--reload-extra-file", .metavar = "FILE",
     .field = &Config::reload_extra_files, .check = watched_file,
     .allowed = "existing files, or patterns with * ? [ ]",
     .help = "Additional files to watch, such as templates; * ? and [ ] make a pattern. May be "
             "repeated.",
     .needs = "reload"},
    {.name = "spew", .flags = "--spew", .field = &Config::spew,
     .help = "Print every line of Python as it runs, starting with the application's import. "
             "Slow, and a lot of output."},
    {.name = "check_config", .flags = "--check-config", .field = &Config::check_config,
     .help = "Check the settings, load the application and exit: 0 if all is well, else 1.",
     .note = "Addresses, log level and worker class are checked, too."},
    {.name = "print_config", .flags = "--print-config", .field = &Config::print_config,
     .help = "Print every setting with its value and where that came from, then do the same as "
             "--check-config."},

    // --- Server mechanics ---
    {.name = "preload_app", .section = "Server mechanics", .flags = "--preload",
     .field = &Config::preload_app, .needs_restart = true,
     .help = "Load the application once, before forking: workers start faster and share memory, but "
             "HUP no longer loads new code."},
    {.name = "sendfile", .flags = "--no-sendfile", .field = &Config::sendfile, .env = "SENDFILE",
     .help = "Send files of wsgi.file_wrapper with sendfile(2); the option turns it off.",
     .note = "True means on; in gunicorn any value turns it off."},
    {.name = "chdir", .flags = "--chdir", .metavar = "DIR", .field = &Config::chdir,
     .allowed = "an existing directory", .env = "PWD",
     .help = "Change to this directory before loading the application; the default is where gcorn "
             "was started."},
    {.name = "daemon", .flags = "-D --daemon", .field = &Config::daemon, .needs_restart = true,
     .help = "Run in the background. The command ends when a worker is ready, after 10 s at the latest, or tells why none is."},
    {.name = "raw_env", .flags = "-e --env", .metavar = "KEY=VALUE", .field = &Config::raw_env,
     .check = key_value, .allowed = "KEY=VALUE",
     .help = "Set an environment variable for the server and the application. May be repeated."},
    {.name = "pidfile", .flags = "-p --pid", .metavar = "FILE", .field = &Config::pidfile,
     .help = "Write the arbiter's process id to this file."},
    {.name = "worker_tmp_dir", .flags = "--worker-tmp-dir", .metavar = "DIR",
     .field = &Config::worker_tmp_dir,
     .help = "Directory of gunicorn's heartbeat files; has no effect.",
     .ignored = "heartbeats are kept in shared memory and need no directory"},
    {.name = "user", .flags = "-u --user", .metavar = "USER", .field = &Config::user,
     .form = Form::Identity, .check = known_user, .allowed = "a user name or number",
     .help = "Run workers as this user. The arbiter keeps its own, to bind low ports and reopen "
             "logs."},
    {.name = "group", .flags = "-g --group", .metavar = "GROUP", .field = &Config::group,
     .form = Form::Identity, .check = known_group, .allowed = "a group name or number",
     .help = "Run workers as this group."},
    {.name = "umask", .flags = "-m --umask", .metavar = "OCTAL", .field = &Config::umask,
     .fallback = "0", .form = Form::Octal, .max = 0777, .needs_restart = true,
     .help = "Permission bits removed from unix sockets; 022, 0o22 and 18 are the same mask."},
    {.name = "initgroups", .flags = "--initgroups", .field = &Config::initgroups,
     .help = "Give workers all groups of user even if they already run as this user; workers "
             "that change to user always get them, and keep none of the arbiter's.",
     .needs = "user"},
    {.name = "tmp_upload_dir", .field = &Config::tmp_upload_dir,
     .allowed = "an existing directory",
     .help = "Directory of the unnamed files that hold large request and response bodies; the "
             "default is the first of $TMPDIR, /tmp, /var/tmp and /dev/shm where one can be "
             "created.",
     .note = "gunicorn never uses it."},
    {.name = "secure_scheme_headers", .field = &Config::secure_scheme_headers,
     .fallback = "X-FORWARDED-PROTOCOL: ssl, X-FORWARDED-PROTO: https, X-FORWARDED-SSL: on",
     .help = "Header fields, with their values, by which a trusted proxy says that the client used "
             "https."},
    {.name = "forwarded_allow_ips", .flags = "--forwarded-allow-ips", .metavar = "NETWORKS",
     .field = &Config::forwarded_allow_ips, .fallback = kTrustedByDefault, .check = judged_by<NetworkList::parse>,
     .allowed = kNetworksAllowed, .env = "FORWARDED_ALLOW_IPS",
     .help = "Proxies whose forwarding headers are trusted: addresses and networks, comma "
             "separated, or * for all. Unix sockets always are."},
    {.name = "forwarder_headers", .flags = "--forwarder-headers", .metavar = "NAMES",
     .field = &Config::forwarder_headers, .fallback = "SCRIPT_NAME,PATH_INFO", .form = Form::Csv,
     .check = upper_case,
     .help = "Header names with an underscore that a trusted proxy may send, comma separated; * "
             "means all."},
    {.name = "header_map", .flags = "--header-map", .metavar = "MODE", .field = &Config::header_map,
     .fallback = "drop", .choices = "drop, refuse, dangerous",
     .help = "What to do with header names that contain an underscore: drop the field, refuse the "
             "request, or pass it on, where it can pose as another (dangerous)."},
    {.name = "pythonpath", .flags = "--pythonpath", .metavar = "DIRS", .field = &Config::pythonpath,
     .help = "Directories to put first on sys.path, comma separated."},
    {.name = "proxy_protocol", .flags = "--proxy-protocol", .metavar = "MODE",
     .field = &Config::proxy_protocol, .fallback = "off", .form = Form::OptionalValue,
     .choices = "off, v1, v2, auto", .check = proxy_mode,
     .help = "Expect a PROXY header at the start of each connection: off, v1, v2, or auto for "
             "both. The option without a value means auto."},
    {.name = "proxy_allow_ips", .flags = "--proxy-allow-from", .metavar = "NETWORKS",
     .field = &Config::proxy_allow_ips, .fallback = kTrustedByDefault, .check = judged_by<NetworkList::parse>,
     .allowed = kNetworksAllowed,
     .help = "Peers, besides unix sockets, that may send a PROXY header; others get 403.",
     .needs = "proxy_protocol"},
    {.name = "permit_obsolete_folding", .flags = "--permit-obsolete-folding",
     .field = &Config::permit_obsolete_folding,
     .help = "Accept header fields continued on the next line. Unsafe."},
    {.name = "strip_header_spaces", .flags = "--strip-header-spaces",
     .field = &Config::strip_header_spaces,
     .help = "Remove blanks between a header name and its colon instead of refusing the request. "
             "Unsafe."},
    {.name = "permit_unconventional_http_method", .flags = "--permit-unconventional-http-method",
     .field = &Config::permit_unconventional_http_method,
     .help = "Accept any token as a method, not only 3 to 20 capital letters. Unsafe."},
    {.name = "permit_unconventional_http_version", .flags = "--permit-unconventional-http-version",
     .field = &Config::permit_unconventional_http_version,
     .help = "Accept HTTP versions other than 1.x. Unsafe."},
    {.name = "casefold_http_method", .flags = "--casefold-http-method",
     .field = &Config::casefold_http_method,
     .help = "Convert methods to upper case before the application sees them.",
     .needs = "permit_unconventional_http_method"},
    {.name = "paste", .flags = "--paste --paster", .metavar = "FILE", .field = &Config::paste,
     .check = paste_file, .allowed = "an existing file, FILE or FILE#SECTION",
     .help = "Load the application from a PasteDeploy file, FILE or FILE#SECTION. Its [loggers] "
             "section, if any, serves as logconfig unless that is set."},
    {.name = "raw_paste_global_conf", .flags = "--paste-global", .metavar = "KEY=VALUE",
     .field = &Config::raw_paste_global_conf, .check = key_value, .allowed = "KEY=VALUE",
     .help = "Set a PasteDeploy global. May be repeated.",
     .needs = "paste"},

    // --- Logging ---
    {.name = "accesslog", .section = "Logging", .flags = "--access-logfile", .metavar = "FILE",
     .field = &Config::accesslog, .form = Form::LogFile, .allowed = "a file, or - for stdout",
     .help = "Access log file; - is stdout. Off by default."},
    {.name = "access_log_format", .flags = "--access-logformat", .metavar = "FORMAT",
     .field = &Config::access_log_format, .fallback = kDefaultAccessFormat, .check = judged_by<AccessLog::compile>,
     .allowed = "text with atoms such as %(h)s and %({name}i)s, or json",
     .help = "Access line: text with atoms such as %(h)s, json, or json: and a list of atoms.",
     .note = "json is gcorn's own. A malformed format is refused at startup."},
    {.name = "errorlog", .flags = "--error-logfile --log-file", .metavar = "FILE",
     .field = &Config::errorlog, .fallback = "-", .form = Form::LogFile,
     .allowed = "a file, or - for stderr",
     .help = "Error log file, for everything else that the server reports; - is stderr."},
    {.name = "error_log_format", .flags = "--error-logformat", .metavar = "NAME",
     .field = &Config::error_log_format, .fallback = "text", .choices = "text, json",
     .help = "Error log lines as text or as one JSON object each.",
     .note = "Not in gunicorn."},
    {.name = "loglevel", .flags = "--log-level", .metavar = "LEVEL", .field = &Config::loglevel,
     .fallback = "info", .choices = "debug, info, warning, error, critical", .check = log_level,
     .help = "Lowest level that is written to the error log: debug, info, warning, error or "
             "critical.",
     .note = "An unknown level is refused at startup; gunicorn treats it as info."},
    {.name = "disable_redirect_access_to_syslog", .flags = "--disable-redirect-access-to-syslog",
     .field = &Config::disable_redirect_access_to_syslog,
     .help = "Keep access lines out of syslog.",
     .needs = "syslog"},
    {.name = "capture_output", .flags = "--capture-output", .field = &Config::capture_output,
     .help = "Send the application's stdout and stderr to the error log, if that is a file.",
     .needs = "errorlog"},
    {.name = "logger_class", .flags = "--logger-class", .metavar = "CLASS",
     .field = &Config::logger_class, .form = Form::ClassName, .check = logger_name,
     .help = "Python class to send log records to as well; the default is the built-in logger."},
    {.name = "logconfig", .flags = "--log-config", .metavar = "FILE", .field = &Config::logconfig,
     .help = "Ini file for Python's logging.config."},
    {.name = "logconfig_dict", .field = &Config::logconfig_dict, .form = Form::Object,
     .allowed = "a dictionary",
     .help = "Dictionary for Python's logging.config; overrides both files."},
    {.name = "logconfig_json", .flags = "--log-config-json", .metavar = "FILE",
     .field = &Config::logconfig_json,
     .help = "JSON file for Python's logging.config; overrides the ini file."},
    {.name = "syslog", .flags = "--log-syslog", .field = &Config::syslog,
     .help = "Send both logs to syslog as well."},
    {.name = "syslog_addr", .flags = "--log-syslog-to", .metavar = "ADDRESS",
     .field = &Config::syslog_addr, .fallback = kSyslogAddr, .check = judged_by<validate_syslog_address>,
     .allowed = "unix://PATH[#dgram|#stream], udp://HOST:PORT, tcp://HOST:PORT",
     .help = "Syslog address: unix://PATH (#dgram or #stream may follow), udp://HOST:PORT or "
             "tcp://HOST:PORT.",
     .needs = "syslog"},
    {.name = "syslog_prefix", .flags = "--log-syslog-prefix", .metavar = "NAME",
     .field = &Config::syslog_prefix,
     .help = "Makes the syslog tags gunicorn.NAME.error and .access; the default is the process "
             "name.",
     .needs = "syslog"},
    {.name = "syslog_facility", .flags = "--log-syslog-facility", .metavar = "NAME",
     .field = &Config::syslog_facility, .fallback = "user", .check = judged_by<validate_syslog_facility>,
     .allowed = "a facility name such as user, daemon or local0",
     .help = "Syslog facility, such as user, daemon or local0.",
     .needs = "syslog"},
    {.name = "enable_stdio_inheritance", .flags = "-R --enable-stdio-inheritance",
     .field = &Config::enable_stdio_inheritance, .needs_restart = true,
     .help = "With --daemon, keep stdout and stderr if they are redirected.",
     .needs = "daemon"},
    {.name = "statsd_host", .flags = "--statsd-host", .metavar = "ADDRESS",
     .field = &Config::statsd_host, .check = judged_by<validate_statsd_host>,
     .allowed = "HOST, HOST:PORT or unix://PATH",
     .help = "Send metrics to this statsd server: HOST, HOST:PORT (8125) or unix://PATH."},
    {.name = "statsd_prefix", .flags = "--statsd-prefix", .metavar = "TEXT",
     .field = &Config::statsd_prefix, .fallback = "",
     .help = "Prefix of every metric's name.",
     .needs = "statsd_host"},
    {.name = "dogstatsd_tags", .flags = "--dogstatsd-tags", .metavar = "TAGS",
     .field = &Config::dogstatsd_tags, .fallback = "",
     .help = "Tags for every metric, in DogStatsD's form: key:value,key:value.",
     .needs = "statsd_host"},
    {.name = "enable_backlog_metric", .flags = "--enable-backlog-metric",
     .field = &Config::enable_backlog_metric,
     .help = "Report how many connections wait to be accepted (Linux, TCP).",
     .needs = "statsd_host"},

    // --- Process naming ---
    {.name = "proc_name", .section = "Process naming", .flags = "-n --name", .metavar = "NAME",
     .field = &Config::proc_name,
     .help = "Name in process titles and syslog tags, to tell servers on one machine apart.",
     .note = "Needs no setproctitle package."},
    {.name = "default_proc_name", .field = &Config::default_proc_name, .fallback = "gunicorn",
     .help = "Used where proc_name is not set; defaults to the application as named at startup."},

    // --- TLS ---
    {.name = "certfile", .section = "TLS", .flags = "--certfile", .metavar = "FILE",
     .field = &Config::certfile,
     .help = "Certificate chain (PEM). certfile or keyfile turns TLS on for every socket."},
    {.name = "keyfile", .flags = "--keyfile", .metavar = "FILE", .field = &Config::keyfile,
     .help = "Private key (PEM), if it is not in certfile."},
    {.name = "ca_certs", .flags = "--ca-certs", .metavar = "FILE", .field = &Config::ca_certs,
     .help = "CA certificates (PEM) that client certificates must chain to.",
     .needs = "certfile"},
    {.name = "cert_reqs", .flags = "--cert-reqs", .field = &Config::cert_reqs, .fallback = "0",
     .max = 2, .allowed = "0, 1 or 2",
     .help = "Client certificates: 0 none, 1 optional, 2 required.",
     .needs = "certfile"},
    {.name = "ciphers", .flags = "--ciphers", .metavar = "LIST", .field = &Config::ciphers,
     .help = "Cipher suites in OpenSSL's notation.",
     .needs = "certfile"},
    {.name = "ssl_version", .flags = "--ssl-version", .metavar = "NAME",
     .field = &Config::ssl_version, .fallback = "2", .form = Form::Identity,
     .allowed = "a name or a number",
     .help = "Has no effect, as in gunicorn.",
     .ignored = "the TLS version is negotiated; the ssl_context hook can restrict it"},
    {.name = "do_handshake_on_connect", .flags = "--do-handshake-on-connect",
     .field = &Config::do_handshake_on_connect,
     .help = "Has no effect: no handshake ever holds up a worker.",
     .ignored = "no handshake ever holds up a worker, whenever it happens"},
    {.name = "suppress_ragged_eofs", .flags = "--suppress-ragged-eofs",
     .field = &Config::suppress_ragged_eofs, .fallback = "True",
     .help = "Treat a client that disconnects without close_notify as gone, not as an error. "
             "Only a config file can turn this off.",
     .needs = "certfile"},

    // --- Server hooks, in the order in which a server reaches them ---
    hook("nworkers_changed", 3, &Config::nworkers_changed,
         "(server, new, old): the number of workers was set; old is None the first time."),
    hook("on_starting", 1, &Config::on_starting, "(server): before sockets are opened."),
    hook("when_ready", 1, &Config::when_ready, "(server): sockets are open, no worker yet."),
    hook("pre_fork", 2, &Config::pre_fork, "(server, worker): in the arbiter, before a fork."),
    hook("post_fork", 2, &Config::post_fork, "(server, worker): in the worker, right after it."),
    hook("post_worker_init", 1, &Config::post_worker_init, "(worker): the application is loaded."),
    hook("worker_int", 1, &Config::worker_int, "(worker): on INT or QUIT."),
    hook("worker_abort", 1, &Config::worker_abort, "(worker): on ABRT, which a timeout sends."),
    hook("pre_request", 2, &Config::pre_request, "(worker, req): before the application is called."),
    {.name = "post_request", .section = kServerHooks, .field = &Config::post_request, .arity = 4,
     .arity_min = 2,
     .help = "(worker, req, environ, resp): after every request, failed ones too; the last two "
             "parameters may be left out."},
    hook("worker_exit", 2, &Config::worker_exit, "(server, worker): the worker's last act."),
    hook("child_exit", 2, &Config::child_exit, "(server, worker): in the arbiter, after a worker has exited."),
    hook("on_reload", 1, &Config::on_reload, "(server): on HUP, before new workers start."),
    hook("pre_exec", 1, &Config::pre_exec, "(server): on USR2, before the new binary runs."),
    hook("on_exit", 1, &Config::on_exit, "(server): the arbiter's last act."),
    hook("ssl_context", 2, &Config::ssl_context,
         "(config, default_factory): makes and returns the ssl.SSLContext."),

    // --- Out of scope ---
    {.name = "protocol", .section = kOutOfScope, .flags = "--protocol", .metavar = "NAME",
     .fallback = "http", .choices = "http", .check = http_only,
     .help = "Only http is supported."},
    {.name = "control_socket_disable", .flags = "--no-control-socket",
     .check = only_without_control_socket, .allowed = "True",
     .help = "Accepted, because container images pass it: there is no control socket. "
             "False is refused."},
    refused("tolerate_dangerous_framing", "--tolerate-dangerous-framing", "", kNoSmuggling, "off"),
    refused("uwsgi_allow_ips", "--uwsgi-allow-from", "NETWORKS", kNoUwsgi, "127.0.0.1,::1"),
    refused("asgi_loop", "--asgi-loop", "NAME", kNoAsgi, "auto"),
    refused("asgi_lifespan", "--asgi-lifespan", "MODE", kNoAsgi, "auto"),
    refused("asgi_disconnect_grace_period", "--asgi-disconnect-grace-period", "INT", kNoAsgi, "3"),
    refused("root_path", "--root-path", "PATH", kNoAsgi, ""),
    {.name = "http_parser", .flags = "--http-parser", .metavar = "NAME",
     .choices = "auto, python, fast",
     .help = "Accepted, but has no effect: gcorn has one HTTP parser."},
    refused("http_protocols", "--http-protocols", "LIST", kNoHttp2, "h1"),
    refused("http2_max_concurrent_streams", "--http2-max-concurrent-streams", "INT", kNoHttp2, "100"),
    refused("http2_initial_window_size", "--http2-initial-window-size", "INT", kNoHttp2, "65535"),
    refused("http2_max_frame_size", "--http2-max-frame-size", "INT", kNoHttp2, "16384"),
    refused("http2_max_header_list_size", "--http2-max-header-list-size", "INT", kNoHttp2, "65536"),
    refused("http2_cleartext", "--http2-cleartext", "MODE", kNoHttp2, "off"),
    refused("dirty_apps", "--dirty-app", "NAME", kNoDirty, ""),
    refused("dirty_workers", "--dirty-workers", "INT", kNoDirty, "0"),
    refused("dirty_timeout", "--dirty-timeout", "INT", kNoDirty, "300"),
    refused("dirty_threads", "--dirty-threads", "INT", kNoDirty, "1"),
    refused("dirty_graceful_timeout", "--dirty-graceful-timeout", "INT", kNoDirty, "30"),
    refused("on_dirty_starting", "", "", kNoDirty),
    refused("dirty_post_fork", "", "", kNoDirty),
    refused("dirty_worker_init", "", "", kNoDirty),
    refused("dirty_worker_exit", "", "", kNoDirty),
    refused("control_socket", "--control-socket", "PATH", kNoControl),
    refused("control_socket_mode", "--control-socket-mode", "OCTAL", kNoControl),
}));
// clang-format on

}  // namespace

std::span<const Setting> settings() {
    return kSettings;
}

const Setting* find_setting(std::string_view name) {
    const auto* row = std::ranges::find(kSettings, name, &Setting::name);
    return row == std::end(kSettings) ? nullptr : row;
}

}  // namespace gcorn
