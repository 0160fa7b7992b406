# Measuring, against what a user would do instead: tests/bench/README.md.

BENCH_DEBS := ethtool gnuplot-nox haproxy iperf3 strace time wrk
# What a run is told, such as BENCH='-rounds 5 -only service'.
BENCH ?=

BENCHED := build/bench/macvlan build/bench/tuning

build/bench/macvlan: go.mod go.sum
	$(GOBUILD) -ldflags '-s -w -X $(BUILDVERSION)=$(UPSTREAM)' -o $@ github.com/containernetworking/plugins/plugins/main/macvlan

build/bench/tuning: go.mod go.sum
	$(GOBUILD) -ldflags '-s -w -X $(BUILDVERSION)=$(UPSTREAM)' -o $@ github.com/containernetworking/plugins/plugins/meta/tuning

.PHONY: bench bench-trace bench-deps
bench-deps: DEBS += $(BENCH_DEBS)
bench-deps: test-deps

BENCHMARK = BENCH_PATH=$(CURDIR)/bin:$(CURDIR)/build/bench $(ALONE) $(GO) test -count=1 -timeout 60m -v ./tests/bench

bench: bench-deps build $(BENCHED) ## Measure against other ways; BENCH='-rounds 5 -only service' for less
	@$(BENCHMARK) -run 'TestBench$$' -args -full $(BENCH)

bench-trace: bench-deps build $(BENCHED) ## Show where the time of one ADD goes
	@$(BENCHMARK) -run 'TestTrace$$' -args -trace
