# Measuring, against what a user would do instead: tests/bench/README.md.

BENCH_DEBS := ethtool gnuplot-nox haproxy iperf3 strace time wrk
# What a run is told, such as BENCH='-rounds 5 -only service'.
BENCH ?=

BENCHED := build/bench/macvlan build/bench/tuning build/bench/idle

build/bench/macvlan: go.mod go.sum
	$(GOBUILD) -ldflags '-s -w -X $(BUILDVERSION)=$(UPSTREAM)' -o $@ github.com/containernetworking/plugins/plugins/main/macvlan

build/bench/tuning: go.mod go.sum
	$(GOBUILD) -ldflags '-s -w -X $(BUILDVERSION)=$(UPSTREAM)' -o $@ github.com/containernetworking/plugins/plugins/meta/tuning

build/bench/idle: tests/bench/idle/main.go go.mod go.sum
	$(GOBUILD) -ldflags '-s -w' -o $@ ./tests/bench/idle

.PHONY: bench bench-kernel bench-trace bench-deps
bench-deps: DEBS += $(BENCH_DEBS)
bench-deps: test-deps

BENCHMARK = BENCH_PATH=$(CURDIR)/bin:$(CURDIR)/build/bench $(ALONE) $(GO) test -count=1 -timeout 60m -v ./tests/bench

bench: bench-deps build $(BENCHED) ## Measure against other ways; BENCH='-rounds 5 -only service' for less
	@$(BENCHMARK) -run 'TestBench$$' -args -full $(BENCH)

# The parts that need no machine of their own, but for the keeper's: with 500 services it does
# not end within a quarter of an hour on an emulated CPU.
bench-kernel: test-deps ## Measure in a virtual machine, on the kernel of Debian SUITE [bookworm]; writes nothing
	DEBIAN_SUITE=$(SUITE) $(ALONE) $(GO) run ./tests/kernel -run 'TestBench$$' -with '$(BENCH_DEBS)' \
		-args '-full -rounds 9 -only service,vips,memory,data,crowd $(BENCH)' ./tests/bench

bench-trace: bench-deps build $(BENCHED) ## Show where the time of one ADD goes
	@$(BENCHMARK) -run 'TestTrace$$' -args -trace
