# A page of verbs in front of CMakeLists.txt, which is the only list of sources and flags.
#
#   make              builds ./gcorn
#   make run          serves examples/hello.py on port 8000
#   make test         builds and runs every test; `unit` and `e2e` are its two halves
#   make asan tsan    unit tests under the address+undefined and the thread sanitizer; asan's char is
#                     unsigned, as on ARM
#   make portable     what other systems run: poll(2) and the shared libpython, with the tests that see it
#   make soak         all kinds of clients against each worker class for MINUTES
#   make fuzz         each fuzz target for FUZZ_SECONDS (clang)
#   make bench aims   measures gcorn beside its peers; holds it to each aim of docs/performance.md
#   make lint format docs clean
#   make install PREFIX=/usr/local DESTDIR=      binary, man page, shell completions
#   make deb          builds build/gcorn_VERSION_ARCHITECTURE.deb (Debian, Ubuntu)
#
# Variables: PYTHON=/path/to/python3  LINK=static|shared  POLLER=epoll|poll  TYPE=Release|Debug
#            BUILD=directory  JOBS=n  FUZZ_SECONDS=n  FUZZ_SEED=n  MINUTES=n
BUILD ?= build
TYPE ?= Release
PYTHON ?=
LINK ?= auto
# What the end-to-end tests run over. While you work: make e2e CLASSES=sync. Before a release: with eventlet,
# which is gevent's code except for twenty lines, and takes a second of processor time in each worker.
CLASSES ?= sync,gthread,gevent
POLLER ?= auto
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
FUZZ_SECONDS ?= 20
# 0: a different random seed each time.
FUZZ_SEED ?= 0
MINUTES ?= 10
PREFIX ?= /usr/local
DESTDIR ?=

OPTIONS = -DPYTHON='$(PYTHON)' -DGCORN_LINK=$(LINK) -DGCORN_E2E_CLASSES=$(CLASSES) -DGCORN_POLLER=$(POLLER)
# $(call build,directory,options,targets): quiet when it works, the compiler's words when it does not.
define build
	@mkdir -p $(1)
	@cmake -S . -B $(1) $(OPTIONS) $(2) >$(1)/make.log 2>&1 || \
	    { grep '^gcorn: ' $(1)/make.log || cat $(1)/make.log; exit 1; }
	@sed -n 's/^-- gcorn: /gcorn: /p' $(1)/make.log
	@cmake --build $(1) -j$(JOBS) $(if $(3),--target $(3)) >$(1)/make.log 2>&1 || \
	    { grep -vE '^\[ *[0-9]+%\]|(Entering|Leaving) directory' $(1)/make.log; exit 1; }
endef
# One more than there are processors, because tests also wait. A test that fails is run once more: some end-to-end
# tests still miss their deadlines on a busy machine.
CTEST = .ci/ctest --test-dir $(1) -j$$(($(JOBS) + 1)) --output-on-failure --repeat until-pass:2
TEST_TOOLS = @test ! -e $(1)/no-gtest || { echo "the tests need GoogleTest: install libgtest-dev"; exit 1; }

all:
	$(call build,$(BUILD),-DCMAKE_BUILD_TYPE=$(TYPE),gcorn)
	@cmp -s $(BUILD)/gcorn gcorn || cp -f $(BUILD)/gcorn gcorn

run: all
	@echo "open http://127.0.0.1:8000/ (Ctrl-C stops the server)"
	@./gcorn -w 2 -b :8000 --chdir examples hello:app

everything:
	$(call build,$(BUILD),-DCMAKE_BUILD_TYPE=$(TYPE))
	$(call TEST_TOOLS,$(BUILD))
	@cmp -s $(BUILD)/gcorn gcorn || cp -f $(BUILD)/gcorn gcorn

test: everything
	@$(call CTEST,$(BUILD))

unit: everything
	@$(call CTEST,$(BUILD)) -L unit

e2e: everything
	@$(call CTEST,$(BUILD)) -L e2e

asan:
	$(call build,build-asan,-DCMAKE_BUILD_TYPE=Debug -DGCORN_SANITIZE=address \
	    -DCMAKE_CXX_FLAGS=-funsigned-char,unit_tests fuzz_targets)
	$(call TEST_TOOLS,build-asan)
	@PYTHONMALLOC=malloc LSAN_OPTIONS=suppressions=$(CURDIR)/tests/support/lsan.supp \
	    $(call CTEST,build-asan) -L unit

tsan:
	$(call build,build-tsan,-DCMAKE_BUILD_TYPE=Debug -DGCORN_SANITIZE=thread,unit_tests)
	$(call TEST_TOOLS,build-tsan)
	@$(call CTEST,build-tsan) -L unit -R 'unit.(EventLoop|Exchange|Connection|Worker|Poller|Log)'

PORTABLE = poller_test event_loop_test e2e_connection_test e2e_serve_test e2e_tls_test
portable: LINK = shared
portable: POLLER = poll
portable: CLASSES = sync
portable:
	$(call build,build-portable,-DCMAKE_BUILD_TYPE=$(TYPE),gcorn $(PORTABLE))
	$(call TEST_TOOLS,build-portable)
	@$(call CTEST,build-portable) -R '^unit.*(Poller|EventLoop)|^e2e.Engines/(Connection|Serve|Tls)'

soak: all
	@python3 tests/soak.py --minutes $(MINUTES)

# CXX, not CMAKE_CXX_COMPILER: when that changes, CMake forgets all other options.
fuzz: export CXX = clang++
fuzz:
	$(call build,build-fuzz,-DCMAKE_BUILD_TYPE=Debug -DGCORN_FUZZ=ON,fuzz_targets)
	@.ci/fuzz build-fuzz $(FUZZ_SECONDS) $(FUZZ_SEED)

lint:
	$(call build,$(BUILD),-DCMAKE_BUILD_TYPE=$(TYPE),gcorn)
	@.ci/layers && .ci/lint $(BUILD)

format:
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i

docs: all
	@./gcorn --help=markdown >docs/settings.md

bench aims: all
	$(call build,$(BUILD),-DCMAKE_BUILD_TYPE=$(TYPE),bench_floor)
	@bench/$(subst bench,run,$@) $(BENCH)

install: all
	@sh deploy/install.sh '$(BUILD)/gcorn' '$(PREFIX)' '$(DESTDIR)'

deb: all
	@sh deploy/make-deb.sh $(BUILD)/gcorn $(BUILD)

clean:
	@rm -rf build build-asan build-tsan build-portable build-fuzz gcorn

.PHONY: all run everything test unit e2e asan tsan portable soak fuzz lint format docs bench aims install deb clean
