// gcorn: the program from the command line to its exit code.
//
// main() reads the command line, starts the interpreter, resolves the settings (the config file is
// Python), opens the logs and becomes the arbiter, which forks workers and keeps them alive. What
// each step does lives in its own room; this file only puts the rooms together and turns their
// errors into exit codes. Read on in arbiter.h, then worker.h, app.h, net/connection.h,
// http_parse.h, wsgi.cpp.

#include <cxxabi.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include "arbiter.h"
#include "base/text.h"
#include "command_line.h"
#include "config.h"
#include "log/log.h"
#include "log/statsd.h"
#include "os/process.h"
#include "os/signals.h"
#include "python/config_file.h"
#include "python/embedded.h"
#include "python/greenlet.h"
#include "python/hooks.h"
#include "python/interpreter.h"
#include "python/logging.h"
#include "python/tls.h"
#include "settings.h"
#include "wsgi.h"

namespace gcorn {
namespace {

int fail(const Error& error, const Starter& starter = {}) {
    std::fflush(stdout);
    starter.tell(startup_error_text(error));
    return error.code != 0 ? error.code : kExitConfigError;
}

/// The exit code. A user who redirects the output to a file wants the whole text or an error.
int print(const std::string& text) {
    if (std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0) return 0;
    return fail({kExitConfigError, errno_error(errno, "write to the standard output").message});
}

size_t terminal_width() {
    winsize size{};  // stays 0 without a terminal, or if it does not know
    (void)::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    return size.ws_col > 0 ? size.ws_col : 80;
}

/// The absolute path of this binary, so that a USR2 after a chdir still finds it, or a newer one
/// put in its place. `argv0` is what the shell was given.
std::string find_executable(const std::string& argv0, const std::string& start_dir) {
    if (argv0.find('/') != std::string::npos)
        return argv0[0] == '/' ? argv0 : start_dir + "/" + argv0;
    const char* path = std::getenv("PATH");
    const std::string found = find_on_path(path != nullptr ? path : "", argv0);
    return found.empty() ? "/proc/self/exe" : found;
}

/// What goes in front of sys.path; the last one ends up first.
std::vector<std::string> python_path(const Config& cfg) {
    std::vector<std::string> directories = {cfg.chdir};
    for (const std::string_view entry : split_list(cfg.pythonpath))
        directories.push_back((entry[0] == '/' ? "" : cfg.chdir + "/") + std::string(entry));
    return directories;
}

/// Looks for what would keep a start from opening or creating its files, without doing so: a check
/// leaves nothing behind, and may be run by a user other than the server's.
Status find_files(const Config& cfg) {
    const auto refused = [](const char* setting, const std::string& path, int why = ENOENT) {
        return Error{kExitConfigError,
                     "'" + path + "' " + std::strerror(why) + " (" + setting + ")"};
    };
    std::error_code error;
    const auto has_directory = [&](const std::string& path) {
        const auto directory = std::filesystem::absolute(path, error).parent_path();
        return path.find('/') == path.npos || std::filesystem::is_directory(directory, error);
    };
    const std::pair<const char*, const std::string&> made[] = {
        {"errorlog", cfg.errorlog}, {"accesslog", cfg.accesslog}, {"pidfile", cfg.pidfile}};
    for (const auto& [setting, path] : made) {
        if (!has_directory(path)) return refused(setting, path);
        if (std::filesystem::is_directory(path, error)) return refused(setting, path, EISDIR);
    }
    for (const std::string& text : cfg.bind)
        if (const auto spec = parse_bind(text); spec && !has_directory(spec->path))
            return refused("bind", spec->path);
    const std::pair<const char*, const std::string&> read[] = {
        {"logconfig", cfg.logconfig}, {"logconfig_json", cfg.logconfig_json}};
    for (const auto& [setting, path] : read)
        if (!path.empty() && !std::filesystem::exists(path, error)) return refused(setting, path);
    return {};
}

/// A pipe (`-c <(make-config)`) or a terminal: read a second time, it is empty, or blocks whoever
/// reads it. Error: `path` is one.
Status can_be_read_again(const char* setting, const std::filesystem::path& path) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);  // of what a link leads to
    const bool is_stream = std::filesystem::is_fifo(status) ||
                           (std::filesystem::is_character_file(status) &&
                            !std::filesystem::equivalent(path, "/dev/null", error));
    if (!is_stream) return {};
    return Error{kExitConfigError, "'" + path.string() +
                                       "' is a pipe or a terminal, which can be read only once, " +
                                       "at the start (" + setting + ")"};
}

/// Everything that lives as long as the process, and the steps of its start.
class Server {
public:
    Server(std::vector<std::string> argv, Surroundings surroundings)
        : argv_(std::move(argv)), surroundings_(std::move(surroundings)) {
        log_.set_counter(&statsd_);
    }

    int run();

private:
    Status read_command_line();
    int print_help(const std::string& form);
    Status start_python();
    Result<ResolvedConfig> resolve();
    Status apply_directories(const Config& cfg);
    Status use(const Config& cfg);
    Status open_logs(const Config& cfg);
    Status start_worker(const Config& cfg);
    void tell_notices(const ResolvedConfig& resolved);
    int check(const ResolvedConfig& resolved);
    Status detach(const Config& cfg);
    std::unique_ptr<Worker> make_worker(WorkerContext context);
    WsgiOptions wsgi_options(const Config& cfg, bool is_check) const;
    std::string paste_specification(const Config& cfg) const;

    std::vector<std::string> argv_;
    Surroundings surroundings_;
    CommandLine command_line_, environment_line_;
    std::string python_warning_;  ///< "" = none
    std::unique_ptr<Interpreter> interpreter_;
    Logger log_;
    Statsd statsd_;
    PythonLogging logging_{log_};
    std::unique_ptr<WsgiApp> app_;
    std::unique_ptr<PythonHooks> hooks_;
    ResponseOptions response_;
    Starter starter_;
    std::optional<Config> in_use_;  ///< set by use()
    TlsContexts tls_;
    Worker* worker_ = nullptr;  ///< in a worker process: the one that runs
};

int Server::run() {
    if (Status read = read_command_line(); !read) return fail(read.error());
    for (const CommandLine* line : {&command_line_, &environment_line_})
        if (line->help) return print_help(line->help_form);
    if (command_line_.version || environment_line_.version)
        return print("gcorn (version " GCORN_VERSION ")\n");
    if (Status started = start_python(); !started) return fail(started.error());
    Result<ResolvedConfig> resolved = resolve();
    if (!resolved) return fail(resolved.error());
    if (!python_warning_.empty()) resolved->notices.push_back(python_warning_);
    const Config& cfg = resolved->config;
    if (cfg.print_config || cfg.check_config) return check(*resolved);

    if (Status detached = detach(cfg); !detached)
        return fail({kExitConfigError, detached.message()});
    app_ = std::make_unique<WsgiApp>(log_, wsgi_options(cfg, false));
    hooks_ = std::make_unique<PythonHooks>(log_, logging_, app_.get());
    if (Status used = use(cfg); !used) return fail({kExitConfigError, used.message()}, starter_);
    tell_notices(*resolved);
    if (cfg.spew) {
        if (Status spewing = interpreter_->set_spew(true); !spewing) return fail(spewing.error());
    }

    ArbiterOptions options{
        .argv = argv_,
        .environment = surroundings_.environment,
        .executable = find_executable(argv_[0], surroundings_.start_dir),
        .start_directory = surroundings_.start_dir,
        .reload_config = [this]() -> Result<Config> {
            Result<ResolvedConfig> fresh = Error{};
            interpreter_->interruptible([&] { fresh = resolve(); });
            if (!fresh) return fresh.error();
            tell_notices(*fresh);
            for (const std::string_view name : undo_restart_only_changes(*in_use_, fresh->config))
                log_.warning("%s has changed, but takes effect only after a restart",
                             std::string(name).c_str());
            return std::move(fresh->config);
        },
        .use_config = [this](const Config& fresh) { return use(fresh); },
        .make_worker = [this](WorkerContext context) { return make_worker(std::move(context)); },
        .log = log_,
        .statsd = statsd_,
        .runtime = *interpreter_,
        .hooks = *hooks_,
        .app = *app_,
        .starter = starter_};
    Arbiter arbiter(std::move(resolved->config), std::move(options));
    const int code = arbiter.run();
    if (code != 0 && starter_.is_waiting())
        starter_.tell("\nError: the daemon has ended with " + std::to_string(code) +
                      (in_use_->errorlog == "-" ? "; set errorlog to a file to see why\n"
                                                : "; " + in_use_->errorlog + " says why\n"));
    return starter_.let_go(code);
}

Status Server::read_command_line() {
    Result<CommandLine> line =
        parse_command_line(std::vector<std::string>(argv_.begin() + 1, argv_.end()));
    if (!line) return line.error();
    command_line_ = std::move(*line);
    const std::optional<std::string> words = surroundings_.variable("GUNICORN_CMD_ARGS");
    if (!words || command_line_.help || command_line_.version) return {};
    Result<StringList> split_words = split_shell_words(*words);
    if (!split_words)
        return Error{split_words.error().code, "GUNICORN_CMD_ARGS: " + split_words.message()};
    Result<CommandLine> more = parse_command_line(*split_words);
    if (!more) return more.error();
    environment_line_ = std::move(*more);
    return {};
}

int Server::print_help(const std::string& form) {
    if (form.empty()) return print(help_text(terminal_width()));
    if (Status started = start_python(); !started) return fail(started.error());
    const Result<std::string> text = help_in_form(form);
    return text ? print(*text) : fail(text.error());
}

Status Server::start_python() {
    const auto variable = [&](const char* name) {
        return surroundings_.variable(name).value_or("");
    };
    Result<PythonChoice> python = choose_python(variable("VIRTUAL_ENV"), variable("PATH"),
                                                find_executable(argv_[0], surroundings_.start_dir));
    if (!python) return python.error();
    python_warning_ = python->warning;
    Result<std::unique_ptr<Interpreter>> started =
        Interpreter::start({.argv = argv_, .python = std::move(*python)});
    if (!started) return started.error();
    occupy_standard_streams();
    interpreter_ = std::move(*started);
    interpreter_->set_logger(&log_);
    return {};
}

/// Reads all sources of settings, lowest precedence first; at the start and on every HUP. Relative
/// names in a config file, and those that are checked here, always refer to the start directory.
Result<ResolvedConfig> Server::resolve() {
    const ReturnTrip trip;
    (void)change_directory(surroundings_.start_dir);  // if gone, absolute names still work
    ConfigBuilder builder(surroundings_);
    builder.apply_environment();
    Result<std::string> file = choose_config_file(command_line_, environment_line_, surroundings_);
    if (!file) return file.error();
    const bool is_again = in_use_ || surroundings_.variable("GUNICORN_PID");  // HUP or USR2
    std::vector<std::string> warnings;
    if (!file->empty()) {
        const std::string name = file->substr(file->starts_with("file:") ? 5 : 0);
        if (Status again = can_be_read_again("config", name); is_again && !again)
            return again.error();
        Result<ConfigFile> loaded = load_config_file(*file, surroundings_.start_dir);
        if (!loaded) return loaded.error();
        if (Status applied = builder.apply_file(*file, loaded->values); !applied)
            return applied.error();
        warnings = std::move(loaded->warnings);
    }
    if (Status applied = builder.apply_arguments(command_line_, environment_line_); !applied)
        return applied.error();
    Result<ResolvedConfig> resolved = builder.finish();
    if (!resolved) return resolved;
    resolved->notices.insert(resolved->notices.end(), warnings.begin(), warnings.end());
    const std::filesystem::path served = resolved->config.chdir;
    for (const auto& [setting, name] :
         {std::pair("logconfig", resolved->config.logconfig),
          std::pair("logconfig_json", resolved->config.logconfig_json)})
        if (Status again = can_be_read_again(setting, served / name); is_again && !again)
            return again.error();
    return resolved;
}

/// --chdir comes last, so that a relative config file is sought in the start directory. On HUP it
/// follows symlinks again: "current" may lead to a new release then.
Status Server::apply_directories(const Config& cfg) {
    if (Status changed = change_directory(cfg.chdir); !changed)
        return Error{kExitConfigError, changed.message()};
    return interpreter_->use_path(python_path(cfg));
}

/// Puts a configuration into effect. Error: everything is as before, including the log that the
/// error goes to.
Status Server::use(const Config& cfg) {
    std::optional<ReturnTrip> trip(std::in_place);
    TlsContexts tls = tls_;
    Status status = apply_directories(cfg);
    if (status) status = load_greenlet_library(cfg);
    // gevent wants to patch ssl before anybody uses it.
    if (status && (cfg.preload_app || cfg.is_tls())) status = patch_for_greenlets(cfg, false);
    if (status) status = hooks_->prepare_for_interrupts(cfg);
    if (status) status = tls.use(cfg, log_);
    const bool has_come_to_logs = status.is_ok();
    if (status) status = open_logs(cfg);
    if (!status) {
        trip.reset();  // the old names are relative to the old directory
        if (in_use_) (void)interpreter_->use_path(python_path(*in_use_));
        if (in_use_ && has_come_to_logs) (void)open_logs(*in_use_);
        return status;
    }
    tls_ = std::move(tls);
    app_->configure(wsgi_options(cfg, false),
                    hooks_->has_request_hooks(cfg) ? hooks_.get() : nullptr);
    const std::optional<std::string> name = patched_server_name();
    response_ = name ? ResponseOptions(*name) : ResponseOptions();
    in_use_ = cfg;
    trip->stay();
    return {};
}

/// Error logs, access logs, metrics.
Status Server::open_logs(const Config& cfg) {
    Result<LogOptions> options = log_options(cfg);
    if (!options) return options.error();
    // The server can do without metrics. But a reload whose new statsd_host fails is refused: it
    // can wait.
    Status metrics = statsd_.open({cfg.statsd_host, cfg.statsd_prefix, cfg.dogstatsd_tags});
    if (!metrics && in_use_ && in_use_->statsd_host != cfg.statsd_host) return metrics;
    // Python's handlers are made before our files are closed: those may have to report what is
    // wrong with the handlers.
    const bool takes_over = logging_takes_over(cfg);
    if (takes_over) {
        if (Status configured = logging_.configure(cfg); !configured) return configured;
        options->is_for_output = true;
        options->accesslog = "";
        if (!cfg.capture_output || cfg.errorlog == "-") options->errorlog = "";
    }
    if (Status opened = log_.open(*options); !opened) return opened;
    if (!metrics)
        log_.warning(
            "%s; %s (HUP tries again)", metrics.message().c_str(),
            statsd_.is_enabled() ? "metrics still go to the old address" : "no metrics are sent");
    if (log_.enabled(Level::Debug)) log_.write(Level::Debug, current_configuration(cfg));
    return takes_over ? Status() : logging_.configure(cfg);
}

void Server::tell_notices(const ResolvedConfig& resolved) {
    for (const std::string& notice : resolved.notices)
        log_.warning("%s", notice.c_str());
}

WsgiOptions Server::wsgi_options(const Config& cfg, bool is_check) const {
    WsgiOptions options;
    options.app = cfg.paste.empty() ? cfg.wsgi_app : paste_specification(cfg);
    options.is_multithread = cfg.worker_class != "sync";
    options.is_multiprocess = cfg.workers > 1;
    options.is_preload = cfg.preload_app && !is_check;
    options.survives_broken_app = cfg.reload && !is_check;
    options.uses_sendfile = cfg.sendfile.value_or(true);
    options.measures_time = !cfg.statsd_host.empty() || logging_takes_over(cfg);
    options.watches_calls = cfg.request_timeout > 0;
    options.offers_websockets = cfg.worker_class == "gevent_websocket";
    if (Result<AccessLog> format = AccessLog::compile(cfg.access_log_format)) {
        options.logged_environ = format->environ_names();
        options.measures_time |= log_.has_access() && format->measures_time();
    }
    return options;
}

/// FILE#SECTION and the globals in the form that python/loader.py reads. A JSON string is a Python
/// literal, too.
std::string Server::paste_specification(const Config& cfg) const {
    const auto [name, section] = split_paste(cfg.paste);
    std::string file(name);
    if (file[0] != '/') file = surroundings_.start_dir + "/" + file;
    std::string text = "<paste>(" + json_quote(file) + ", ";
    text += json_quote(section) + ", [";
    for (const std::string& assignment : cfg.raw_paste_global_conf)
        text += json_quote(assignment) + ", ";
    return text + "])";
}

/// --check-config and --print-config: everything short of serving, in this process.
int Server::check(const ResolvedConfig& resolved) {
    const Config& cfg = resolved.config;
    if (cfg.print_config) {
        if (const int code = print(print_config_text(resolved)); code != 0) return code;
    }
    if (Status applied = apply_directories(cfg); !applied) return fail(applied.error());
    if (Result<LogOptions> options = log_options(cfg); !options) return fail(options.error());
    // The traceback of a broken application goes to stderr.
    if (Status opened = log_.open({}); !opened) return fail(opened.error());
    tell_notices(resolved);
    if (Status found = find_files(cfg); !found) return fail(found.error());
    if (Status usable = load_greenlet_library(cfg); !usable) return fail(usable.error());
    if (auto tls = make_tls_context(cfg); !tls) return fail(tls.error());
    for (const auto& [name, value] : raw_environment(cfg))
        interpreter_->set_environment(name, &value);
    {
        const WithGil gil;
        if (logging_takes_over(cfg) &&
            !call_embedded("_gcorn_logging", "logger_class", make_config_view(cfg)))
            return fail({kExitConfigError, take_error_sentence()});
    }
    WsgiApp app(log_, wsgi_options(cfg, true));
    if (Status loaded = app.load(); !loaded) {
        std::fprintf(stderr, "\nError while loading the application: %s\n",
                     loaded.message().c_str());
        return kExitConfigError;
    }
    return 0;
}

Status Server::detach(const Config& cfg) {
    // A re-executed master (USR2) is a daemon already.
    if (!cfg.daemon || surroundings_.variable("GUNICORN_PID")) return {};
    interpreter_->before_fork();
    Status detached = starter_.detach(cfg.enable_stdio_inheritance);
    interpreter_->after_fork_child();
    log_.after_fork();
    return detached;
}

/// In a new worker, before its signals are caught and the application is loaded.
Status Server::start_worker(const Config& cfg) {
    starter_ = {};
    // Where Python's logging has taken over, we have no descriptor of the error log.
    const int dump_fd = log_.error_fd() >= 0 ? log_.error_fd() : STDERR_FILENO;
    Status status = interpreter_->enable_traceback_dump(dump_fd);
    // Not while greenlet libraries patch Python, which runs millions of lines that interest nobody.
    if (status && cfg.spew) status = interpreter_->set_spew(false);
    if (status) status = patch_for_greenlets(cfg, true);
    if (status && cfg.reload) status = interpreter_->prepare_reload();
    if (status && cfg.spew) status = interpreter_->set_spew(true);
    if (!status) return status;
    // A hook is called once, however often its signal arrives.
    return interpreter_->install_interrupts(
        [this, told = std::array<bool, 2>()](int signal) mutable {
            const bool is_abort = signal == SIGABRT;
            if (!std::exchange(told[is_abort], true))
                (void)hooks_->run(is_abort ? &Config::worker_abort : &Config::worker_int, nullptr,
                                  worker_);
            return is_abort || !worker_->has_obeyed();
        });
}

std::unique_ptr<Worker> Server::make_worker(WorkerContext context) {
    context.response = response_;
    context.starting = [this](const Config& cfg) { return start_worker(cfg); };
    context.make_tls = tls_.transform_maker();
    std::unique_ptr<Worker> worker;
    if (is_greenlet_class(context.cfg))
        worker = std::make_unique<GreenletWorker>(std::move(context), *app_);
    else if (context.cfg.worker_class == "sync")
        worker = std::make_unique<SyncWorker>(std::move(context));
    else
        worker = std::make_unique<ThreadWorker>(std::move(context));
    worker_ = worker.get();  // cppcheck-suppress danglingLifetime ; it lives on in its caller
    return worker;
}

}  // namespace
}  // namespace gcorn

namespace {

/// The last words of a process that is ended by an exception from a library. (Not a new_handler,
/// because extensions may survive a bad_alloc.)
[[noreturn]] void explain_end() {
    const std::type_info* type = abi::__cxa_current_exception_type();
    const std::string_view name = type != nullptr ? type->name() : "";  // built without RTTI
    if (name == "St9bad_alloc") gcorn::die("out of memory");
    if (name == "St12system_error")
        gcorn::die("cannot start a thread (ulimit -u, ulimit -v, TasksMax?)");
    gcorn::die("terminated by an uncaught exception");
}

}  // namespace

int main(int argc, char** argv) {
    gcorn::fill_standard_streams();
    std::set_terminate(explain_end);
    std::vector<std::string> arguments(argv, argv + argc);
    if (arguments.empty()) arguments.emplace_back("gcorn");
    auto surroundings = gcorn::Surroundings::of_process();
    gcorn::title_init(argc, argv);
    gcorn::signals::unblock_all();
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGXFSZ, SIG_IGN);  // a log at its size limit is an error, not the end
    gcorn::Server server(std::move(arguments), std::move(surroundings));
    return server.run();
}
