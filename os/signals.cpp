#include "os/signals.h"

#include <cerrno>
#include <ctime>
#include <utility>

#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "base/fd.h"
#include "os/process.h"

namespace gcorn::signals {

namespace {

constexpr int kSignalsMax = 64;  // numbers that fit one byte of the pipe and exist (NSIG is 65)

constexpr int kArbiterQueued[] = {SIGHUP,  SIGINT,   SIGQUIT, SIGTERM, SIGUSR1,
                                  SIGUSR2, SIGWINCH, SIGTTIN, SIGTTOU, SIGCHLD};

// What handlers can reach. The Fds own the pipe; handlers read the plain number beside them,
// because an Fd's methods promise nothing inside a handler.
Fd read_end, write_end;
volatile sig_atomic_t write_fd = -1;
volatile pid_t owner = 0;  // the process that opened the pipe
volatile sig_atomic_t overflowed[kSignalsMax + 1];
void (*volatile interrupt_python)(void*, int) = nullptr;
void* volatile interrupt_argument = nullptr;

/// Not SIG_IGN: programs that the application starts would inherit that, and a shell could not even
/// trap the signal.
void disregard(int) {}

void end_without_core(int) {
    static_cast<void>(::raise(SIGTERM));  // TERM has its default action where this is the handler
}

// sigaction fails only for numbers that do not exist or cannot be caught; ours are constants.
void set_action(int signal, void (*handler)(int), int flags) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    GCORN_CHECK(sigaction(signal, &action, nullptr) == 0);
}

/// False in a process that the application, a hook or a library forked: it has our handlers, but
/// the pipe is its parent's.
bool is_ours() {
    return ::getpid() == owner;
}

/// What a signal means to such a process. One that asks it to end ends it, once the handler has
/// returned; one for the whole family (log rotation, a reload) harms it no more than it harms us.
void obey_as_a_child(int signal) {
    if (signal == SIGQUIT) return end_without_core(signal);
    if (signal != SIGTERM && signal != SIGINT && signal != SIGABRT) return;
    set_action(signal, SIG_DFL, 0);
    static_cast<void>(::raise(signal));
}

}  // namespace

void note(int signal) {
    if (!is_ours()) return obey_as_a_child(signal);
    const int saved_errno = errno;
    const auto byte = static_cast<unsigned char>(signal);
    if (retry_on_eintr([&] { return ::write(write_fd, &byte, 1); }) != 1) overflowed[signal] = 1;
    errno = saved_errno;
}

namespace {

void note_and_interrupt(int signal) {
    note(signal);
    if (!is_ours()) return;
    const int saved_errno = errno;
    if (interrupt_python != nullptr) interrupt_python(interrupt_argument, signal);
    errno = saved_errno;
}

#ifdef __linux__
timer_t end_timer;  // sends SIGKILL, which nothing that runs in this process can delay

void start_end_timer(int) {
    const itimerspec two_seconds{.it_interval = {0, 0}, .it_value = {2, 0}};
    static_cast<void>(::timer_settime(end_timer, 0, &two_seconds, nullptr));
}
#endif

void ignore_write_failures() {
    set_action(SIGPIPE, SIG_IGN, 0);
    set_action(SIGXFSZ, SIG_IGN, 0);
}

}  // namespace

Status open() {
    Result<Pipe> pipe = make_pipe();
    if (!pipe) return pipe.error();
    write_fd = -1;
    read_end = std::move(pipe->read);
    write_end = std::move(pipe->write);
    for (auto& flag : overflowed)
        flag = 0;
    owner = ::getpid();
    write_fd = write_end.get();
    set_action(SIGUSR1, note, SA_RESTART);
    return {};
}

int note_fd() {
    return static_cast<int>(write_fd);
}

int fd() {
    return read_end.get();
}

std::vector<int> take() {
    std::vector<int> queued;
    bool has_child = false;
    const auto append = [&](int signal) {
        if (signal == SIGCHLD && std::exchange(has_child, true)) return;
        queued.push_back(signal);
    };
    unsigned char bytes[256];
    const auto read_some = [&] { return ::read(read_end.get(), bytes, sizeof(bytes)); };
    for (ssize_t count = 0; (count = retry_on_eintr(read_some)) > 0;) {
        for (ssize_t i = 0; i < count; ++i)
            append(bytes[i]);
    }
    for (int signal = 1; signal <= kSignalsMax; ++signal) {
        if (overflowed[signal] == 0) continue;
        overflowed[signal] = 0;
        append(signal);
    }
    return queued;
}

void unblock_all() {
    sigset_t none;
    sigemptyset(&none);
    GCORN_CHECK(pthread_sigmask(SIG_SETMASK, &none, nullptr) == 0);
}

void catch_for_arbiter() {
    for (const int signal : kArbiterQueued)
        set_action(signal, note, SA_RESTART);
    ignore_write_failures();
}

void catch_for_worker(void (*interrupter)(void*, int), void* argument) {
    interrupt_argument = argument;
    interrupt_python = interrupter;
    set_action(SIGTERM, note, SA_RESTART);
    set_action(SIGUSR1, note, SA_RESTART);
    // Without SA_RESTART: a blocking call of the application returns EINTR, and the interpreter
    // looks at its own note before it tries again (PEP 475).
    for (const int signal : {SIGINT, SIGQUIT, SIGABRT})
        set_action(signal, note_and_interrupt, 0);
    for (const int signal : {SIGHUP, SIGUSR2, SIGWINCH})
        set_action(signal, disregard, SA_RESTART);
    for (const int signal : {SIGCHLD, SIGTTIN, SIGTTOU})
        set_action(signal, SIG_DFL, 0);
    ignore_write_failures();
}

void end_soon_after_parent() {
#ifdef __linux__
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    // A sandbox may refuse either: the loop watches for the parent's end, too.
    if (::timer_create(CLOCK_MONOTONIC, &event, &end_timer) < 0) return;
    const int signal = SIGRTMIN + 5;  // no program is known to use it
    set_action(signal, start_end_timer, SA_RESTART);
    static_cast<void>(::prctl(PR_SET_PDEATHSIG, signal));
#endif
}

void reset_to_defaults() {
    for (const int signal : kArbiterQueued)
        set_action(signal, SIG_DFL, 0);
    set_action(SIGABRT, SIG_DFL, 0);
    set_action(SIGQUIT, end_without_core, 0);
    for (const int signal : {SIGHUP, SIGUSR2})
        set_action(signal, disregard, SA_RESTART);
    interrupt_python = nullptr;
}

void block_all_in_this_thread(sigset_t* before) {
    sigset_t all;
    sigfillset(&all);
    GCORN_CHECK(pthread_sigmask(SIG_BLOCK, &all, before) == 0);
}

void Hold::release() {
    if (!std::exchange(is_held_, false)) return;
    GCORN_CHECK(pthread_sigmask(SIG_SETMASK, &before_, nullptr) == 0);
}

ArbiterHandlers::ArbiterHandlers() {
    for (const int signal : kArbiterQueued)
        GCORN_CHECK(sigaction(signal, nullptr, &before_.emplace_back()) == 0);
}

ArbiterHandlers::~ArbiterHandlers() {
    for (size_t i = 0; i < before_.size(); ++i)
        GCORN_CHECK(sigaction(kArbiterQueued[i], &before_[i], nullptr) == 0);
    interrupt_python = nullptr;
}

void ArbiterHandlers::interrupt_with(void (*interrupter)(void*, int)) {
    interrupt_python = interrupter;
    for (const int signal : {SIGTERM, SIGINT, SIGQUIT})
        set_action(signal, note_and_interrupt, 0);
}

std::string name(int signal) {
    static constexpr std::pair<int, const char*> kNames[] = {
        {SIGHUP, "SIGHUP"},   {SIGINT, "SIGINT"},       {SIGQUIT, "SIGQUIT"},
        {SIGILL, "SIGILL"},   {SIGTRAP, "SIGTRAP"},     {SIGABRT, "SIGABRT"},
        {SIGBUS, "SIGBUS"},   {SIGFPE, "SIGFPE"},       {SIGKILL, "SIGKILL"},
        {SIGUSR1, "SIGUSR1"}, {SIGSEGV, "SIGSEGV"},     {SIGUSR2, "SIGUSR2"},
        {SIGPIPE, "SIGPIPE"}, {SIGALRM, "SIGALRM"},     {SIGTERM, "SIGTERM"},
        {SIGCHLD, "SIGCHLD"}, {SIGTTIN, "SIGTTIN"},     {SIGTTOU, "SIGTTOU"},
        {SIGXCPU, "SIGXCPU"}, {SIGXFSZ, "SIGXFSZ"},     {SIGSYS, "SIGSYS"},
        {SIGPROF, "SIGPROF"}, {SIGVTALRM, "SIGVTALRM"}, {SIGWINCH, "SIGWINCH"},
        {SIGSTOP, "SIGSTOP"}, {SIGCONT, "SIGCONT"},     {SIGTSTP, "SIGTSTP"},
        {SIGIO, "SIGIO"},
    };
    for (const auto& [number, text] : kNames)
        if (number == signal) return text;
    return "SIG" + std::to_string(signal);
}

}  // namespace gcorn::signals
