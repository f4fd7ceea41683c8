# A page of verbs; CMakeLists.txt is the only list of sources and flags.
BUILD ?= build
all:
	@cmake -S . -B $(BUILD) >/dev/null && cmake --build $(BUILD) -j2
.PHONY: all
