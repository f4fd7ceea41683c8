// Above 800 lines: all of it works on one state (children, generations, listeners) in one loop; a
// second file would share every member and hide the order of a turn. The sections are marked.
#include "arbiter.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <netinet/tcp.h>
#endif

#include "base/clock.h"
#include "base/text.h"
#include "os/signals.h"

namespace gcorn {

namespace {

constexpr int64_t kNever = INT64_MAX;
constexpr int kBindAttempts = 5;              // one second apart (gunicorn: sock.create_sockets)
constexpr int64_t kAbortPatienceMs = 1000;    // from SIGABRT to SIGKILL
constexpr int64_t kQuickStopMs = 2000;        // for a stop that was asked for twice
constexpr int64_t kOneWishMs = 250;           // two TERMs within this time count as one
constexpr int64_t kKillMarginMs = 500;        // workers keep graceful_timeout themselves, we watch
constexpr int64_t kBootingPatienceMs = 2000;  // for a worker that has no request to lose
constexpr int64_t kUnkillableMs = 5000;       // then we stop without a process that SIGKILL leaves
constexpr int64_t kLateMs = 100;       // if we check a silent worker this late, we slept, too
constexpr int64_t kExcuseMinMs = 500;  // how long it may then take to beat again, at least
constexpr int64_t kBackoffMinMs = 1000;
constexpr int64_t kBackoffMaxMs = 30000;
constexpr int64_t kRelativeTickMs = 1000;  // looks at our predecessor, only while there is one
constexpr int64_t kBacklogTickMs = 1000;   // enable_backlog_metric
constexpr int64_t kMemoryTickMs = 1000;    // max_worker_memory
/// So that a limit below what the application always needs causes a restart now and then, not a
/// storm.
constexpr int64_t kMemoryPatienceMs = 5000;
constexpr size_t kSlotsMin = 256;  // room for TTIN and for two generations

/// "term" for SIGTERM.
std::string short_name(int signal) {
    return lower(signals::name(signal).substr(3));
}

/// Ends the start. With an empty message the reason has been logged already.
Error fatal(const Error& error) {
    return Error{1, error.message};
}

/// The exit code that a hook asked for (sys.exit, HaltServer), or 1.
int exit_code_of_hook(const Status& status) {
    return status.error().code != 0 ? status.error().code : 1;
}
Error fatal_hook(const Status& status) {
    return Error{exit_code_of_hook(status), status.message()};
}

/// Whether two specs cannot be open at once; a unix socket's mode and owner do not matter.
bool is_same_place(const BindSpec& a, const BindSpec& b) {
    if (a.kind != b.kind) return false;
    return a.kind == BindSpec::Kind::Unix ? a.path == b.path : a == b;
}

Error no_room_for_more(size_t places) {
    return Error{0, "there is room for only " + std::to_string(places) +
                        " workers, old and new together; a restart makes room for more"};
}

#ifdef __linux__
/// Connections that wait in a listener's accept queue (tcp(7); for a listening socket the kernel
/// reports them in tcpi_unacked).
int64_t accept_queue_length(int fd) {
    tcp_info info{};
    socklen_t size = sizeof(info);
    return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_unacked : 0;
}
#else
int64_t accept_queue_length(int) {
    return 0;
}
#endif

}  // namespace

Arbiter::Arbiter(Config config, ArbiterOptions options) : options_(std::move(options)) {
    generations_.push_back(std::make_unique<Generation>());
    current_ = generations_.back().get();
    current_->cfg = std::move(config);
}

std::map<pid_t, Worker*> Arbiter::workers() const {
    std::map<pid_t, Worker*> living;
    for (const auto& [pid, child] : children_)
        living[pid] = child.worker.get();
    return living;
}

std::string Arbiter::proc_name() const {
    return cfg().process_name() + (predecessor_ != 0 ? ".2" : "");
}

// --- start and end ---

int Arbiter::run() {
    pid_ = ::getpid();
    if (Status status = start(); !status) return fail_start(status.error());
    int64_t wake_ms = 0;
    while (!is_stopping() || !children_.empty()) {
        sleep_until(wake_ms);
        wake_ms = turn();
    }
    return finish();
}

// The order is gunicorn's, as its hooks and log lines show it.
Status Arbiter::start() {
    if (const char* pid = std::getenv("GUNICORN_PID"); pid != nullptr) {
        // Otherwise it was inherited by accident, or our predecessor is gone already.
        if (parse_decimal(pid) == static_cast<uint64_t>(::getppid())) predecessor_ = ::getppid();
        options_.runtime.set_environment("GUNICORN_PID", nullptr);
    }
    Generation& generation = *current_;
    const std::string software = kSoftware;
    options_.runtime.set_environment("SERVER_SOFTWARE", &software);
    if (Status status = prepare(generation); !status) return fatal(status.error());
    apply_environment(generation.cfg);
    num_workers_ = static_cast<int>(generation.cfg.workers);
    if (Status status =
            options_.hooks.run(&Config::nworkers_changed, this, nullptr, {num_workers_, -1});
        !status)
        return fatal_hook(status);
    if (generation.cfg.preload_app) {
        if (Status status = options_.app.load(); !status) return status;
    }
    log().info("Starting gcorn " GCORN_VERSION);

    Result<Pipe> pipe = make_pipe();
    if (!pipe) return fatal(pipe.error());
    life_ = std::move(*pipe);
    const size_t slots = std::max(kSlotsMin, static_cast<size_t>(num_workers_) * 4);
    Result<Scoreboard> scoreboard = Scoreboard::create(slots);
    if (!scoreboard) return fatal(scoreboard.error());
    scoreboard_.emplace(std::move(*scoreboard));
    notifier_.emplace();
    backoff_ms_ = kBackoffMinMs;

    if (Status status = write_pidfile(); !status) return fatal(status.error());
    if (Status status = options_.hooks.run(&Config::on_starting, this); !status)
        return fatal_hook(status);
    if (Status status = signals::open(); !status) return fatal(status.error());
    signals::catch_for_arbiter();

    if (Status status = adopt_listeners(generation); !status) return status;
    if (Status status = open_listeners(generation, nullptr); !status) return status;
    log().debug("Arbiter booted");
    log().info("Listening at: %s (%d)", join(addresses(), ",").c_str(), pid_);
    log().info("Using worker: %s", cfg().worker_class.c_str());
    if (cfg().daemon && notifier_->is_active())
        log().warning("daemon is set, but NOTIFY_SOCKET asks for a process in the foreground");
    if (Status status = options_.hooks.run(&Config::when_ready, this); !status)
        return fatal_hook(status);
    set_title("gcorn: master [" + proc_name() + "]");
    announce_ready();
    return {};
}

int Arbiter::fail_start(const Error& error) {
    if (!error.message.empty()) {
        // Whoever started us sees it on the terminal, wherever the log goes.
        options_.starter.tell("\nError: " + error.message + "\n");
        if (log().error_fd() != STDERR_FILENO) log().error("%s", error.message.c_str());
    }
    for (const auto& listener : listeners_) {
        if (has_relative()) break;
        if (Status status = listener->unlink_path(); !status)
            log().warning("%s", status.message().c_str());
    }
    if (pidfile_) pidfile_->unlink();
    return error.code;
}

int Arbiter::finish() {
    if (exit_code_ == 0) {
        log().info("Shutting down: %s", name());
    } else {
        log().error("Shutting down: %s", name());
        log().error("Reason: %s", reason_.c_str());
    }
    // Two masters that stop at once leave the path to each other; then the last one removes it.
    for (const auto& listener : listeners_)
        note_error("unlink", listener->unlink_if_deserted());
    if (pidfile_) pidfile_->unlink();
    if (Status status = options_.hooks.run(&Config::on_exit, this); !status && exit_code_ == 0)
        exit_code_ = exit_code_of_hook(status);
    return exit_code_;
}

/// Checks all of a configuration that can be checked before anything is opened for it.
Status Arbiter::prepare(Generation& generation) {
    Config& cfg = generation.cfg;
    Result<AccessLog> access_log = AccessLog::compile(
        cfg.access_log_format.empty() ? kDefaultAccessFormat : cfg.access_log_format);
    if (!access_log) return access_log.error();
    generation.access_log.emplace(std::move(*access_log));
    // The usual 1000 connections with the usual 1024 descriptors are not worth a line.
    const size_t places = connection_places(cfg);
    if (places + places / 16 < static_cast<size_t>(cfg.worker_connections))
        log().warning(
            "Each worker accepts at most %zu connections instead of %lld: the limit on open "
            "files is too low (worker_connections, ulimit -n)",
            places, static_cast<long long>(cfg.worker_connections));
    if (cfg.max_worker_memory > 0 && resident_mib(pid_) < 0)
        return Error{0, "max_worker_memory needs /proc/PID/statm, which cannot be read here"};
    bool has_fd = false;
    for (const std::string& text : cfg.bind) {
        Result<BindSpec> spec = parse_bind(text);
        if (!spec) return spec.error();
        has_fd = has_fd || spec->kind == BindSpec::Kind::Fd;
        // One descriptor cannot be polled twice, and a second unix socket would take the first
        // one's path. A port that is named twice will be found in use.
        const bool is_repeated = spec->kind != BindSpec::Kind::Tcp &&
                                 std::ranges::any_of(generation.specs, [&](const BindSpec& other) {
                                     return is_same_place(other, *spec);
                                 });
        if (is_repeated)
            log().warning("bind names %s more than once", text.c_str());
        else
            generation.specs.push_back(std::move(*spec));
    }
    // gunicorn: given descriptors replace all addresses.
    if (has_fd) {
        std::erase_if(generation.specs,
                      [](const BindSpec& spec) { return spec.kind != BindSpec::Kind::Fd; });
        cfg.reuse_port = false;
    }
    // With reuse_port workers share no connections either.
    return cfg.reuse_port || cfg.is_tls() ? Status() : generation.relay.open();
}

std::string Arbiter::pidfile_path() const {
    return cfg().pidfile.empty() ? "" : cfg().pidfile + (predecessor_ != 0 ? ".2" : "");
}

/// Tells the supervisor that somebody serves, and again after each reload.
void Arbiter::announce_ready() {
    if (predecessor_ != 0 || (!has_been_ready_ && num_workers_ > 0)) return;
    options_.starter.let_go(0);
    note_notice(notifier_->ready("gcorn serves with " + std::to_string(num_workers_) +
                                 (num_workers_ == 1 ? " worker" : " workers")));
}

/// A supervisor that does not listen is no problem for our clients.
void Arbiter::note_notice(const Status& status) {
    if (!status) log().debug("%s", status.message().c_str());
}

void Arbiter::note_error(const char* what, const Status& status) {
    if (!status) log().error("%s: %s", what, status.message().c_str());
}

// --- listeners ---

/// Sockets that a supervisor or our predecessor left open for us. Error: the supervisor's are of no
/// use; on what `bind` names, nobody would look for us.
Status Arbiter::adopt_listeners(Generation& generation) {
    std::vector<int> fds = systemd::take_listen_fds();
    has_given_listeners_ = !fds.empty();
    if (has_given_listeners_) {
        for (const char* variable : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})
            options_.runtime.set_environment(variable, nullptr);
    } else if (const char* list = std::getenv("GUNICORN_FD"); list != nullptr) {
        for (const std::string_view text : split_list(list)) {
            const auto fd = parse_decimal(text);
            if (!fd || *fd > INT_MAX) continue;
            const int number = static_cast<int>(*fd);
            if (std::ranges::find(fds, number) == fds.end()) fds.push_back(number);
        }
        options_.runtime.set_environment("GUNICORN_FD", nullptr);
    }
    if (fds.empty()) return {};
    const auto origin =
        has_given_listeners_ ? Listener::Origin::Supervisor : Listener::Origin::Predecessor;
    Result<ListenerOptions> options = listener_options(generation.cfg);
    if (!options) return {};  // open_listeners() will find and report the same error
    for (const int fd : fds) {
        Result<std::unique_ptr<Listener>> listener = Listener::adopt(fd, origin, *options);
        if (!listener) {
            log().warning("%s", listener.message().c_str());
            continue;
        }
        generation.listeners.push_back(listener->get());
        listeners_.push_back(std::move(*listener));
    }
    if (has_given_listeners_ && generation.listeners.empty())
        return Error{1,
                     "LISTEN_FDS passes no socket that can be listened on (in a socket unit: "
                     "ListenStream= with an address or path, and not Accept=yes)"};
    // The sockets stay even if `bind` has changed since (gunicorn: sock.create_sockets), and HUP
    // sees no change. Hosts may be spelt differently, ports may not.
    if (has_given_listeners_ || generation.listeners.empty() || generation.cfg.reuse_port)
        return {};
    for (const BindSpec& spec : generation.specs) {
        if (spec.kind != BindSpec::Kind::Tcp || spec.port == 0) continue;
        if (std::ranges::none_of(generation.listeners, [&](const Listener* listener) {
                return !listener->is_unix() && listener->spec().port == spec.port;
            }))
            log().warning("An upgrade keeps the old sockets: it takes a restart to listen on %s",
                          spec.log_text().c_str());
    }
    return {};
}

/// Opens what the generation's specs ask for, unless `before` or adopt_listeners() has it open.
Status Arbiter::open_listeners(Generation& generation, const Generation* before) {
    if (has_given_listeners_) {
        generation.cfg.reuse_port = false;  // or workers would open the addresses, too
        if (before != nullptr) generation.listeners = before->listeners;
    }
    // Not if the file of a unix socket is gone, or a reload that was given up just now has made it
    // again.
    const auto is_in_place = [&](const Listener* listener) {
        return listener->is_reachable() && std::ranges::none_of(listeners_, [&](const auto& other) {
                   return other.get() != listener && other->fd() >= 0 &&
                          is_same_place(other->spec(), listener->spec());
               });
    };
    // An inherited socket's spec may be spelt differently; so while the setting stays the same, the
    // sockets stay. (A reload never changes reuse_port.)
    const bool is_unchanged = before != nullptr && before->specs == generation.specs &&
                              std::ranges::all_of(before->listeners, is_in_place);
    if (is_unchanged) generation.listeners = before->listeners;
    const bool is_complete = is_unchanged || !generation.listeners.empty();
    for (const BindSpec& spec : generation.specs) {
        const bool is_workers_own = generation.cfg.reuse_port && spec.kind == BindSpec::Kind::Tcp;
        if (is_complete && !is_workers_own) continue;
        Listener* kept = nullptr;
        if (before != nullptr && !is_workers_own) {
            // Including those of a reload that was given up just now: its workers still hold them.
            for (const auto& old : listeners_)
                if (old->fd() >= 0 && is_same_place(old->spec(), spec) && old->is_reachable() &&
                    !uses(generation, *old))
                    kept = old.get();
        }
        if (kept != nullptr)
            generation.listeners.push_back(kept);
        else if (Status status = open_listener(spec, generation, before == nullptr); !status)
            return status;
    }
    for (const Listener* listener : generation.listeners)
        generation.addresses.push_back(listener->name());
    // Linux 5.14. Each worker's socket has an accept queue of its own, which ends with the worker.
    if (generation.cfg.reuse_port &&
        read_small_file("/proc/sys/net/ipv4/tcp_migrate_req").value_or("0\n") == "0\n") {
        log().warning(
            "reuse_port: connections made while a worker exits may be reset, also during HUP; "
            "`sysctl -w net.ipv4.tcp_migrate_req=1` passes them to the other workers");
    }
    return {};
}

/// is_patient: retries an address that may become free.
Status Arbiter::open_listener(const BindSpec& spec, Generation& generation, bool is_patient) {
    Result<ListenerOptions> options = listener_options(generation.cfg);
    if (!options) return fatal(options.error());
    const std::string where = spec.log_text();
    const bool is_trial = generation.cfg.reuse_port && spec.kind == BindSpec::Kind::Tcp;
    options->listens = !is_trial;
    for (int attempt = 1;; ++attempt) {
        Result<std::unique_ptr<Listener>> listener = Listener::open(spec, *options);
        if (listener) {
            if (is_trial) {
                // Nobody would accept from our copy, but the kernel would give it connections.
                generation.addresses.push_back((*listener)->name());
                return {};
            }
            generation.listeners.push_back(listener->get());
            listeners_.push_back(std::move(*listener));
            return {};
        }
        const Error& error = listener.error();
        if (error.code == EADDRINUSE) log().error("Connection in use: %s", where.c_str());
        if (error.code == EADDRNOTAVAIL) log().error("Invalid address: %s", where.c_str());
        const bool may_get_free = error.code == EADDRINUSE || error.code == EADDRNOTAVAIL;
        log().error("connection to %s failed: [Errno %d] %s", where.c_str(), error.code,
                    // gunicorn names only the reason, which is the end of the message.
                    error.message.substr(may_get_free ? error.message.rfind(": ") + 2 : 0).c_str());
        if (!is_patient || !may_get_free || attempt == kBindAttempts) break;
        log().debug("Retrying in 1 second.");
        sleep_until(monotonic_ms() + 1000);
        for (const int signal : signals::take()) {
            if (signal != SIGTERM && signal != SIGINT && signal != SIGQUIT) continue;
            log().info("Handling signal: %s", short_name(signal).c_str());
            return Error{0, ""};
        }
    }
    log().error("Can't connect to %s", where.c_str());
    if (is_patient) return Error{1, ""};
    std::string text = "cannot listen on " + where;
    // From 127.0.0.1 to 0.0.0.0, say: nobody should look for another program.
    for (const auto& other : listeners_)
        if (other->fd() >= 0 && spec.kind == BindSpec::Kind::Tcp &&
            other->spec().kind == spec.kind && other->spec().port == spec.port)
            text += "; this server has " + other->name() + " open, so the change takes a restart";
    return Error{1, text};
}

bool Arbiter::uses(const Generation& generation, const Listener& listener) {
    return std::ranges::find(generation.listeners, &listener) != generation.listeners.end();
}

/// Closes what neither the current configuration nor a pending one uses. The objects stay until
/// prune(), because Worker objects may refer to them; old workers keep their own copies of the
/// sockets.
void Arbiter::close_unused_listeners() {
    for (const auto& listener : listeners_) {
        if (uses(target(), *listener) || uses(*current_, *listener)) continue;
        if (!has_relative()) note_error("unlink", listener->unlink_path());
        listener->close();
    }
}

// --- the loop ---

/// Until a signal, a word on the scoreboard, or the deadline.
void Arbiter::sleep_until(int64_t deadline_ms) {
    int timeout_ms = -1;
    if (deadline_ms != kNever) {
        const int64_t left_ms = deadline_ms - monotonic_ms();
        timeout_ms = static_cast<int>(std::clamp<int64_t>(left_ms, 0, INT_MAX));
    }
    pollfd fds[] = {{signals::fd(), POLLIN, 0}, {scoreboard_->notify_fd(), POLLIN, 0}};
    // EINTR is as good a reason to wake up as any; other errors would mean a closed descriptor.
    const int count = ::poll(fds, 2, timeout_ms);
    GCORN_CHECK(count >= 0 || errno == EINTR || errno == ENOMEM);
}

/// One round; returns the time of the next one, if nothing happens before.
int64_t Arbiter::turn() {
    scoreboard_->drain();
    for (const int signal : signals::take())
        handle_signal(signal);
    note_readiness();  // before reap(): a worker that was ready and then died did not fail to boot
    reap();
    if (pending_ != nullptr && !is_stopping()) {
        int ready = 0;
        for (const auto& [pid, child] : children_)
            if (child.generation == pending_ && child.was_ready() && is_active(child)) ++ready;
        if (ready >= num_workers_) commit_reload();
    }
    int64_t wake_ms = is_stopping() ? kNever : manage_workers();
    for (auto it = children_.begin(); it != children_.end();) {
        Child& child = (it++)->second;  // watch_child() may drop it
        wake_ms = std::min(wake_ms, watch_child(child));
    }
    wake_ms = std::min({wake_ms, watch_host(), watch_memory()});
    prune();
    return wake_ms;
}

void Arbiter::handle_signal(int signal) {
    const std::string text = short_name(signal);
    if (signal == SIGCHLD) return log().debug("Handling signal: %s", text.c_str());
    if (is_stopping()) {
        // A second TERM hurries as well, unless it comes with the first: some supervisors signal
        // both the process and its group.
        const bool is_repeated =
            signal == SIGTERM && monotonic_ms() - stopping_since_ms_ > kOneWishMs;
        if (signal == SIGINT || signal == SIGQUIT || is_repeated) return hurry();
        if (signal != SIGUSR1)
            return log().debug("Ignoring signal while stopping: %s", text.c_str());
    }
    log().info("Handling signal: %s", text.c_str());
    switch (signal) {
        case SIGTERM: return stop(SIGTERM, 0, "");
        case SIGINT:
        case SIGQUIT: return stop(SIGQUIT, 0, "");
        case SIGHUP: return reload();
        case SIGUSR1:
            log().reopen();
            options_.statsd.reopen();  // its server may have moved
            for (const auto& [pid, child] : children_)
                send(child, SIGUSR1);
            return;
        case SIGUSR2: return upgrade();
        case SIGTTIN: return change_num_workers(num_workers_ + 1);
        case SIGTTOU:
            if (num_workers_ > 1) change_num_workers(num_workers_ - 1);
            return;
        case SIGWINCH:
            // A terminal sends it whenever its window changes; daemons have none.
            if (!cfg().daemon) return log().debug("SIGWINCH ignored. Not daemonized.");
            log().info("graceful stop of workers");
            return change_num_workers(0);
        default: return;
    }
}

/// A worker that is gone already (ESRCH) will be reaped next. EPERM: it runs as `user`, and the
/// container was started without CAP_KILL (kill(2)); then it stays as it is.
void Arbiter::send(const Child& child, int signal) {
    const pid_t pid = child.worker->pid();
    if (::kill(pid, signal) == 0 || errno == ESRCH) return;
    log().error("Cannot send %s to worker (pid:%d): %s", signals::name(signal).c_str(), pid,
                std::strerror(errno));
}

void Arbiter::change_num_workers(int count) {
    const int before = std::exchange(num_workers_, count);
    (void)options_.hooks.run(&Config::nworkers_changed, this, nullptr, {count, before});
}

WorkerSlot& Arbiter::slot(const Child& child) const {
    return scoreboard_->slot(child.worker->slot());
}

/// Whether it counts among the wanted workers: neither told to leave nor leaving by itself.
bool Arbiter::is_active(const Child& child) const {
    return child.retired_ms == 0 && slot(child).state.load() != WorkerState::Stopping;
}

void Arbiter::note_readiness() {
    for (auto& [pid, child] : children_) {
        if (child.was_ready() || slot(child).state.load() != WorkerState::Ready) continue;
        child.ready_ms = monotonic_ms();
        log().debug("Worker (pid:%d) is ready after %.1f s", pid,
                    static_cast<double>(monotonic_ms() - child.spawned_ms) / 1000.0);
        backoff_ms_ = kBackoffMinMs;
        next_spawn_ms_ = 0;
        if (!std::exchange(has_been_ready_, true) && !is_stopping()) announce_ready();
    }
}

/// Spawns and retires workers of the target generation until there are num_workers_ of them. A
/// worker that wants a replacement counts as missing, but serves on until there is one ready worker
/// too many.
int64_t Arbiter::manage_workers() {
    std::vector<Child*> team;
    for (auto& [pid, child] : children_)
        if (child.generation == &target() && is_active(child)) team.push_back(&child);
    std::ranges::sort(team, {}, [](const Child* child) { return child->worker->age(); });
    const auto is_worn = [&](const Child& child) {
        return child.was_ready() && slot(child).wants_replacement.load();
    };
    int ready = 0, fresh = 0;
    for (const Child* child : team) {
        ready += child->was_ready() ? 1 : 0;
        fresh += is_worn(*child) ? 0 : 1;
    }
    for (Child* child : team) {  // oldest first
        const bool worn = is_worn(*child);
        if (!child->was_ready() || ready <= num_workers_ || !(worn || fresh > num_workers_))
            continue;
        retire(*child, SIGTERM);
        --ready;
        if (!worn) --fresh;
    }
    for (auto it = team.rbegin(); it != team.rend() && fresh > num_workers_; ++it) {
        if ((*it)->was_ready()) continue;  // youngest first: it has done the least of its booting
        retire(**it, SIGTERM);
        --fresh;
    }
    for (; fresh < num_workers_; ++fresh) {
        if (monotonic_ms() < next_spawn_ms_) return next_spawn_ms_;
        // No slot is free, but workers of earlier reloads are leaving, and their end will wake us.
        if (children_.size() == scoreboard_->size() &&
            std::ranges::any_of(children_,
                                [](const auto& entry) { return entry.second.retired_ms != 0; }))
            return kNever;
        const Status spawned = spawn_worker();
        if (spawned) continue;
        if (pending_ != nullptr)
            abandon_reload(spawned.message());
        else if (spawned.error().code != 0)
            stop(SIGTERM, spawned.error().code, spawned.message());
        else
            back_off(spawned.message());
        return is_stopping() ? kNever : next_spawn_ms_;
    }
    return kNever;
}

/// Acts on one worker's deadlines; returns the next one.
int64_t Arbiter::watch_child(Child& child) {
    const int64_t now = monotonic_ms();
    if (child.killed_because != nullptr) {
        if (!is_stopping()) return kNever;
        const int64_t leave_ms = child.killed_ms + kUnkillableMs;
        if (now < leave_ms) return leave_ms;
        log().error("Worker (pid:%d) has not exited even after SIGKILL; leaving it behind",
                    child.worker->pid());
        children_.erase(child.worker->pid());
        return 0;
    }
    const Config& cfg = child.generation->cfg;
    const int64_t heartbeat_ms = slot(child).heartbeat_ms.load();
    const bool is_booting = heartbeat_ms == 0;
    int64_t wake_ms = kNever;
    if (child.retired_ms != 0) {
        wake_ms = child.leave_by_ms;
        if (is_booting) wake_ms = std::min(wake_ms, child.retired_ms + kBootingPatienceMs);
        if (now >= wake_ms) {
            kill_worker(child, is_booting ? "it was still booting" : "graceful_timeout has passed");
            return 0;
        }
    }
    // A booting worker has no heartbeat: imports may take as long as they like, unless boot_timeout
    // is set.
    const int64_t limit_ms = milliseconds(is_booting ? cfg.boot_timeout : cfg.timeout);
    if (limit_ms == 0) return wake_ms;
    const int64_t alive_ms = is_booting ? child.spawned_ms : heartbeat_ms;
    const int64_t silent_ms = alive_ms + limit_ms + 1;
    if (now < silent_ms) return std::min(wake_ms, silent_ms);
    // If it was frozen together with us (docker pause, a suspended machine), its silence is no
    // hang. Only once for each beat, so that a load that always delays us does not save a worker
    // that hangs.
    const int64_t late_ms = now - silent_ms;
    if (child.aborted_ms == 0 && late_ms > kLateMs &&
        std::exchange(child.excused_beat_ms, alive_ms) != alive_ms)
        child.excused_until_ms = now + std::clamp(late_ms, kExcuseMinMs, limit_ms);
    if (now < child.excused_until_ms) return std::min(wake_ms, child.excused_until_ms);
    if (child.aborted_ms == 0) {
        abort_worker(child, is_booting ? "WORKER BOOT TIMEOUT" : "WORKER TIMEOUT");
    } else if (now >= child.aborted_ms + kAbortPatienceMs) {
        kill_worker(child, is_booting ? "it took longer than boot_timeout to boot"
                                      : "it sent no heartbeat for longer than timeout");
        return 0;
    }
    return std::min(wake_ms, child.aborted_ms + kAbortPatienceMs);
}

/// Looks after predecessor, supervisor's watchdog and metrics; returns when one of them is due
/// again.
int64_t Arbiter::watch_host() {
    const int64_t now = monotonic_ms();
    int64_t wake_ms = kNever;
    if (predecessor_ != 0 && ::getppid() != predecessor_) promote();
    if (predecessor_ != 0) {
        wake_ms = now + kRelativeTickMs;
    } else if (const int64_t interval_ms = notifier_->watchdog_interval_ms(); interval_ms > 0) {
        if (now >= next_watchdog_ms_) {
            note_notice(notifier_->watchdog());
            next_watchdog_ms_ = now + interval_ms;
        }
        wake_ms = next_watchdog_ms_;
    }
    if (children_.size() != workers_told_) {
        workers_told_ = children_.size();
        log().debug("%zu workers", workers_told_);
        options_.statsd.workers(static_cast<int64_t>(workers_told_));
    }
    if (cfg().enable_backlog_metric && options_.statsd.is_enabled()) {
        if (now >= next_backlog_ms_) {
            int64_t waiting = 0;
            for (const Listener* listener : listeners())
                if (!listener->is_unix()) waiting += accept_queue_length(listener->fd());
            options_.statsd.backlog(waiting);
            next_backlog_ms_ = now + kBacklogTickMs;
        }
        wake_ms = std::min(wake_ms, next_backlog_ms_);
    }
    return wake_ms;
}

/// Has the largest worker above max_worker_memory replaced. One at a time, because replacing all at
/// once would need twice the memory.
int64_t Arbiter::watch_memory() {
    if (cfg().max_worker_memory == 0 || is_stopping()) return kNever;
    const int64_t now = monotonic_ms();
    if (now < next_memory_ms_) return next_memory_ms_;
    next_memory_ms_ = now + kMemoryTickMs;
    Child* largest = nullptr;
    int64_t most_mib = cfg().max_worker_memory;
    for (auto& [pid, child] : children_) {
        const bool is_settled = child.was_ready() && is_active(child);
        if (!is_settled || slot(child).wants_replacement.load()) return next_memory_ms_;
        const int64_t mib = now - child.ready_ms < kMemoryPatienceMs ? 0 : resident_mib(pid);
        if (mib <= most_mib) continue;
        most_mib = mib;
        largest = &child;
    }
    if (largest == nullptr) return next_memory_ms_;
    log().info("Worker (pid:%d) has %lld MiB in memory (max_worker_memory is %lld): replacing it",
               largest->worker->pid(), static_cast<long long>(most_mib),
               static_cast<long long>(cfg().max_worker_memory));
    slot(*largest).wants_replacement.store(true);
    return now;
}

/// Drops generations without workers, then listeners without a generation.
void Arbiter::prune() {
    std::erase_if(generations_, [&](const auto& generation) {
        if (generation.get() == current_ || generation.get() == pending_) return false;
        return std::ranges::none_of(children_, [&](const auto& entry) {
            return entry.second.generation == generation.get();
        });
    });
    std::erase_if(listeners_, [&](const auto& listener) {
        return std::ranges::none_of(
            generations_, [&](const auto& generation) { return uses(*generation, *listener); });
    });
}

// --- one worker ---

/// Error: there is no new worker; its code is the server's exit code, or 0 = try again.
Status Arbiter::spawn_worker() {
    Generation& generation = target();
    const size_t slot_index = scoreboard_->claim();
    if (slot_index == scoreboard_->size()) return no_room_for_more(slot_index);
    Child child{.worker = options_.make_worker(WorkerContext{.arbiter = *this,
                                                             .cfg = generation.cfg,
                                                             .log = options_.log,
                                                             .access_log = *generation.access_log,
                                                             .statsd = options_.statsd,
                                                             .runtime = options_.runtime,
                                                             .hooks = options_.hooks,
                                                             .app = options_.app,
                                                             .scoreboard = *scoreboard_,
                                                             .slot = slot_index,
                                                             .listeners = generation.listeners,
                                                             .relay = &generation.relay,
                                                             .life_fd = life_.read.get(),
                                                             .age = ++age_,
                                                             .has_relative = has_relative()}),
                .generation = &generation,
                .spawned_ms = monotonic_ms()};
    if (Status status = options_.hooks.run(&Config::pre_fork, this, child.worker.get()); !status) {
        scoreboard_->free(slot_index);
        return Error{has_been_ready_ ? 0 : exit_code_of_hook(status), status.message()};
    }
    signals::Hold hold;
    options_.runtime.before_fork();
    const pid_t pid = ::fork();
    const int saved_errno = errno;
    if (pid == 0) run_child(child, hold);
    options_.runtime.after_fork_parent();
    if (pid < 0) {
        scoreboard_->free(slot_index);
        return Error{0, errno_error(saved_errno, "fork").message};
    }
    child.worker->set_pid(pid);
    children_.emplace(pid, std::move(child));
    options_.hooks.workers_changed(*this);
    return {};
}

/// The child's side of the fork, up to its end; Worker::run() goes on.
void Arbiter::run_child(Child& child, signals::Hold& hold) {
    options_.runtime.after_fork_child();
    life_.write.reset();
    // Another generation's sockets would stay open as long as this worker lives. They are only
    // closed: that generation's Worker objects, which hooks may look at, refer to them.
    for (const auto& listener : listeners_)
        if (!uses(*child.generation, *listener)) listener->close();
    for (const auto& generation : generations_)
        if (generation.get() != child.generation) generation->relay.close();
    log().after_fork();
    signals::reset_to_defaults();
    if (Status status = signals::open(); !status) {
        log().error("%s", status.message().c_str());
        ::_exit(kExitBootFailed);
    }
    hold.release();
    set_title("gcorn: worker [" + proc_name() + "]");
    log().info("Booting worker with pid: %d", ::getpid());
    const int code = child.worker->run();
    // Not exit(): destructors and atexit handlers belong to the arbiter. Output in stdio's buffers
    // is ours.
    std::fflush(nullptr);
    ::_exit(code);
}

/// One step for each wave of failures: those that come while we are waiting belong to the same
/// wave.
void Arbiter::back_off(const std::string& why) {
    const int64_t now = monotonic_ms();
    if (now < next_spawn_ms_) return;
    log().error("No new worker for %lld s: %s", static_cast<long long>(backoff_ms_ / 1000),
                why.c_str());
    next_spawn_ms_ = now + backoff_ms_;
    backoff_ms_ = std::min(backoff_ms_ * 2, kBackoffMaxMs);
}

/// Tells a worker to leave, within the graceful timeout. A second time only a stronger signal is
/// sent, and the deadline stays.
void Arbiter::retire(Child& child, int signal) {
    slot(child).is_retired.store(true);  // before the signal, which wakes it
    if (child.retired_ms == 0 || signal != SIGTERM) send(child, signal);
    if (child.retired_ms != 0) return;
    child.retired_ms = monotonic_ms();
    child.leave_by_ms =
        child.retired_ms + milliseconds(child.generation->cfg.graceful_timeout) + kKillMarginMs;
}

void Arbiter::abort_worker(Child& child, const char* sentence) {
    log().critical("%s (pid:%d)", sentence, child.worker->pid());
    report_activities(child);
    child.aborted_ms = monotonic_ms();
    child.worker->set_aborted();
    send(child, SIGABRT);
}

void Arbiter::kill_worker(Child& child, const char* because) {
    child.killed_because = because;
    child.killed_ms = monotonic_ms();
    send(child, SIGKILL);
}

// --- deaths ---

void Arbiter::reap() {
    bool has_looked = false;
    const auto take = [&](Children::iterator it, int status) {
        Child child = std::move(it->second);
        children_.erase(it);
        options_.hooks.workers_changed(*this);
        if (!std::exchange(has_looked, true)) oom_kills_.look(monotonic_ms());
        bury(std::move(child), status);
    };
    for (;;) {
        int status = 0;
        const pid_t pid = retry_on_eintr([&] { return ::waitpid(-1, &status, WNOHANG); });
        if (pid <= 0) break;
        if (pid == successor_) {
            successor_ended(status);
            continue;
        }
        const auto it = children_.find(pid);
        if (it == children_.end()) {
            // As PID 1 we inherit orphans, which only need to be reaped.
            log().debug("Reaped a foreign child (pid:%d)", pid);
            continue;
        }
        take(it, status);
    }
    // If a hook or a library waits for every child, or ignores SIGCHLD, no zombie is left for us.
    const auto is_gone = [](const auto& entry) {
        return ::kill(entry.first, 0) != 0 && errno == ESRCH;
    };
    for (Children::iterator it;
         (it = std::ranges::find_if(children_, is_gone)) != children_.end();) {
        log().error(
            "Worker (pid:%d) has exited with unknown status: a hook or library of the master "
            "waits for all children, or ignores SIGCHLD",
            it->first);
        take(it, 0);
    }
}

void Arbiter::bury(Child child, int status) {
    report_death(child, status);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    const bool cannot_boot = code == kExitBootFailed || code == kExitAppFailed;
    if (!cannot_boot) (void)options_.hooks.run(&Config::child_exit, this, child.worker.get());
    const bool left_by_itself = slot(child).state.load() == WorkerState::Stopping && code == 0;
    const bool was_slow = child.aborted_ms != 0;
    // Before it served anybody, and not by somebody's SIGKILL: its hub has failed, or a thread of
    // the application. The next one would end the same way.
    const bool ended_at_once = child.was_ready() && slot(child).requests.load() == 0 &&
                               monotonic_ms() - child.ready_ms < kBackoffMinMs &&
                               !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    scoreboard_->free(child.worker->slot());
    if (is_stopping() || child.retired_ms != 0 || left_by_itself) return;
    if (ended_at_once) return back_off("Worker ended as soon as it was ready.");
    if (child.was_ready()) return;
    const char* why = code == kExitAppFailed ? "App failed to load." : "Worker failed to boot.";
    if (child.generation == pending_) return abandon_reload(why);
    if (!has_been_ready_ && (cannot_boot || was_slow))
        return stop(SIGTERM, cannot_boot ? code : kExitBootFailed, why);
    back_off(why);
}

/// gunicorn's sentences, followed by what it cannot tell: who sent the signal.
void Arbiter::report_death(const Child& child, int status) {
    const pid_t pid = child.worker->pid();
    if (WIFEXITED(status)) {
        const int code = WEXITSTATUS(status);
        if (code == 0) return;
        log().error("Worker (pid:%d) exited with code %d.", pid, code);
        if (child.was_ready() && child.aborted_ms == 0) report_activities(child);
        return;
    }
    const int signal = WTERMSIG(status);
    std::string text =
        "Worker (pid:" + std::to_string(pid) + ") was sent " + signals::name(signal) + "!";
    if (signal == SIGTERM) {
        text += child.retired_ms != 0 ? " By gcorn." : " Not by gcorn.";
        return log().write(Level::Info, text);
    }
    if (signal == SIGKILL && child.killed_because != nullptr) {
        text += std::string(" By gcorn: ") + child.killed_because + ".";
    } else if (signal == SIGKILL && oom_kills_.explains_a_death()) {
        text += " By the kernel: out of memory (oom_kill " + std::to_string(oom_kills_.count()) +
                " in its cgroup).";
    } else if (signal == SIGKILL && oom_kills_.is_known()) {
        text += " Not by gcorn, and its cgroup has not run out of memory.";
    } else if (signal == SIGKILL) {
        text += " Perhaps out of memory?";
    } else if (signal == SIGABRT && child.aborted_ms != 0) {
        text += " By gcorn, after its timeout.";
    }
    log().write(signal == SIGKILL ? Level::Error : Level::Warning, text);
    if (child.was_ready() && child.aborted_ms == 0) report_activities(child);
}

/// Logs each request that the worker runs, or was running.
void Arbiter::report_activities(const Child& child) {
    const pid_t pid = child.worker->pid();
    const int64_t now = monotonic_ms();
    const WorkerSlot& board = slot(child);
    int count = 0;
    for (size_t index = 0; index < kActivitiesMax; ++index) {
        ActivityView view;
        if (!board.read(index, view)) continue;
        ++count;
        log().error("Worker (pid:%d) was running: %s", pid, view.text(now).c_str());
    }
    if (count == 0) log().error("Worker (pid:%d) was running no request", pid);
}

void Arbiter::successor_ended(int status) {
    const pid_t pid = std::exchange(successor_, 0);
    // If it was killed, its pid file is still there, with a number that may become another's.
    const std::string its_pidfile = cfg().pidfile + ".2";
    if (!cfg().pidfile.empty() && read_pidfile(its_pidfile) == pid) ::unlink(its_pidfile.c_str());
    if (WIFEXITED(status)) {
        log().warning("The new master (pid:%d) exited with code %d; this one continues", pid,
                      WEXITSTATUS(status));
    } else {
        log().warning("The new master (pid:%d) was sent %s; this one continues", pid,
                      signals::name(WTERMSIG(status)).c_str());
    }
    // WINCH had sent our workers away, because the upgrade looked well: now nobody else serves.
    if (num_workers_ == 0 && !is_stopping()) change_num_workers(static_cast<int>(cfg().workers));
}

// --- reload ---

void Arbiter::reload() {
    log().info("Hang up: %s", name());
    if (pending_ != nullptr) abandon_reload("");  // the newer wish counts
    if (predecessor_ == 0) note_notice(notifier_->reloading());
    if (Status status = begin_reload(); !status) abandon_reload(status.message());
}

Status Arbiter::begin_reload() {
    undo_environment();
    Result<Config> config = options_.reload_config();
    if (!config) return config.error();
    auto generation = std::make_unique<Generation>();
    generation->cfg = std::move(*config);
    if (Status status = prepare(*generation); !status) return status;
    // All of these serve until all of the new ones are ready. Found out only when the last place is
    // taken, it would cost hundreds of imports.
    const auto serving = std::ranges::count_if(
        children_, [](const auto& entry) { return entry.second.retired_ms == 0; });
    if (generation->cfg.workers + serving > static_cast<int64_t>(scoreboard_->size()))
        return no_room_for_more(scoreboard_->size());
    if (options_.use_config) {
        if (Status status = options_.use_config(generation->cfg); !status) return status;
    }
    // From here on there is something to roll back, and abandon_reload() does.
    pending_ = generation.get();
    generations_.push_back(std::move(generation));
    num_workers_before_ = num_workers_;
    apply_environment(cfg());
    log().reopen();
    if (Status status = open_listeners(*pending_, current_); !status) return status;
    close_unused_listeners();
    if (options_.app.is_loaded()) {
        log().warning(
            "The application was preloaded: HUP does not load its new code; a restart or USR2 "
            "does");
    }
    change_num_workers(static_cast<int>(cfg().workers));
    if (Status status = options_.hooks.run(&Config::on_reload, this); !status) return status;
    backoff_ms_ = kBackoffMinMs;
    next_spawn_ms_ = 0;
    return {};
}

void Arbiter::commit_reload() {
    const Generation& before = *std::exchange(current_, std::exchange(pending_, nullptr));
    for (auto& [pid, child] : children_)
        if (child.generation != current_) retire(child, SIGTERM);
    close_unused_listeners();
    change_permissions(before);
    if (addresses() != before.addresses)
        log().info("Listening at: %s", join(addresses(), ",").c_str());
    if (Status status = write_pidfile(); !status) log().error("%s", status.message().c_str());
    set_title("gcorn: master [" + proc_name() + "]");
    announce_ready();
}

/// Of unix sockets that stay open, though bind now names another mode or owner.
void Arbiter::change_permissions(const Generation& before) {
    const Result<ListenerOptions> options = listener_options(cfg());
    for (const BindSpec& spec : current_->specs) {
        if (std::ranges::find(before.specs, spec) != before.specs.end()) continue;
        for (const Listener* listener : listeners())
            if (options && is_same_place(listener->spec(), spec))
                note_error("bind", listener->change_permissions(spec, *options));
    }
}

/// Goes back to the generation that serves. why: "" = in silence, because another reload follows,
/// which may use what was opened.
void Arbiter::abandon_reload(const std::string& why) {
    undo_environment();
    apply_environment(current_->cfg);
    if (const Generation* failed = std::exchange(pending_, nullptr)) {
        for (auto& [pid, child] : children_)
            if (child.generation == failed) retire(child, SIGTERM);
        if (options_.use_config) note_error("old configuration", options_.use_config(cfg()));
        if (num_workers_ != num_workers_before_) change_num_workers(num_workers_before_);
    }
    if (!why.empty()) {
        close_unused_listeners();
        log().error("Reload failed, keeping the old workers and settings: %s", why.c_str());
    }
    announce_ready();
}

/// At the start, and after a reload: the setting may have changed, or somebody may have removed the
/// file. Error: the previous file stays.
Status Arbiter::write_pidfile() {
    const std::string path = pidfile_path();
    std::optional<Pidfile> written;
    if (!path.empty()) {
        Result<Pidfile> pidfile = Pidfile::create(path, pid_);
        if (!pidfile) return pidfile.error();
        written.emplace(std::move(*pidfile));
    }
    if (pidfile_ && pidfile_->path() != path) pidfile_->unlink();
    pidfile_ = std::move(written);
    return {};
}

/// Applies raw_env. The original values are kept, so that a reload can restore them.
void Arbiter::apply_environment(const Config& cfg) {
    for (const auto& [name, value] : raw_environment(cfg)) {
        environment_before_.try_emplace(name, find_variable(options_.environment, name));
        options_.runtime.set_environment(name, &value);
    }
}

void Arbiter::undo_environment() {
    for (const auto& [name, value] : environment_before_)
        options_.runtime.set_environment(name, value ? &*value : nullptr);
    environment_before_.clear();
}

// --- stop ---

void Arbiter::stop(int signal, int code, std::string reason) {
    stopping_since_ms_ = monotonic_ms();
    exit_code_ = code;
    reason_ = std::move(reason);
    // After an upgrade the service does not stop but has a new main process; only the old one may
    // say so (NotifyAccess=main).
    if (predecessor_ == 0)
        note_notice(successor_ != 0 ? notifier_->main_pid(successor_) : notifier_->stopping());
    for (const auto& listener : listeners_) {
        if (!has_relative()) note_error("unlink", listener->unlink_path());
        listener->close();
    }
    for (auto& [pid, child] : children_)
        retire(child, signal);
}

/// Asked to stop while stopping.
void Arbiter::hurry() {
    log().info("Quick shutdown requested");
    const int64_t now = monotonic_ms();
    for (auto& [pid, child] : children_) {
        retire(child, SIGQUIT);
        child.leave_by_ms = std::min(child.leave_by_ms, now + kQuickStopMs);
    }
}

// --- upgrade ---

void Arbiter::upgrade() {
    if (successor_ != 0) return log().warning("USR2 signal ignored. Child exists.");
    if (predecessor_ != 0) return log().warning("USR2 signal ignored. Parent exists.");
    signals::Hold hold;
    options_.runtime.before_fork();
    const pid_t pid = ::fork();
    const int saved_errno = errno;
    if (pid == 0) run_successor(hold);
    options_.runtime.after_fork_parent();
    if (pid < 0)
        return log().error("Upgrade failed: %s", errno_error(saved_errno, "fork").message.c_str());
    successor_ = pid;
}

/// Between fork and exec: hands over the listeners and becomes the binary at our path.
void Arbiter::run_successor(signals::Hold& hold) {
    options_.runtime.after_fork_child();
    life_.write.reset();  // by which the workers know that our parent lives
    log().after_fork();
    signals::reset_to_defaults();
    hold.release();
    Status status = options_.hooks.run(&Config::pre_exec, this);
    if (status) status = change_directory(options_.start_directory);

    // WATCHDOG_PID names the old master; without it the new one keeps the watchdog quiet later.
    Environment environment = options_.environment;
    std::erase_if(environment, [](const std::string& entry) {
        const std::string name = entry.substr(0, entry.find('='));
        return name.starts_with("LISTEN_") || name == "GUNICORN_PID" || name == "GUNICORN_FD" ||
               name == "WATCHDOG_PID";
    });
    environment.push_back("GUNICORN_PID=" + std::to_string(::getppid()));
    if (status) status = pass_listeners(environment);

    for (const int signal : {SIGHUP, SIGUSR2})
        ::signal(signal, SIG_IGN);  // exec keeps that until the new binary has handlers
    std::fflush(nullptr);
    if (status) status = execute(options_.executable, options_.argv, environment);
    log().error("Upgrade failed: %s", status.message().c_str());
    std::fflush(nullptr);
    ::_exit(1);
}

/// Makes the listeners survive the exec, and names them in the way they were given to us.
Status Arbiter::pass_listeners(Environment& environment) {
    std::vector<int> fds;
    std::vector<std::string> numbers;
    for (Listener* listener : listeners()) {
        if (Status status = set_close_on_exec(listener->fd(), false); !status) return status;
        fds.push_back(listener->fd());
        numbers.push_back(std::to_string(listener->fd()));
    }
    if (has_given_listeners_) return systemd::pass_listen_fds(fds, environment);
    environment.push_back("GUNICORN_FD=" + join(numbers, ","));
    return {};
}

/// Our predecessor is gone: its name, its pid file and its place at the supervisor are now ours.
void Arbiter::promote() {
    predecessor_ = 0;
    log().info("Master has been promoted.");
    if (pidfile_) note_error("pid file", pidfile_->rename(pidfile_path()));
    set_title("gcorn: master [" + proc_name() + "]");
    note_notice(notifier_->reclaim_main_pid());
    announce_ready();
}

}  // namespace gcorn
