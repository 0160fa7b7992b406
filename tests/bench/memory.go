package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// measured are the programs whose memory is looked at. Each is started through
// time(1), which forks before it starts it: the kernel counts what a process was
// before its exec, too, and of one that Go starts that is its parent.
var measured = []string{"macvlan-vip", "hairpin-route", "static"}

// memory is the programs' peak resident memory, by numbers of VIPs.
func memory(t *testing.T, rounds int) []Comparison {
	peaks := map[string]*samples{}
	for _, program := range measured {
		peaks[program] = newSamples()
	}
	for _, n := range sizes {
		s := newSite(t, vips(n), true)
		w := wayQuiet()
		w.prepare(s)
		for range max(rounds/10, 3) {
			add := w.add(s)
			add.env = append(add.env, "CNI_PATH="+s.wrap())
			s.run(add)
			s.run(w.del(s))
			s.restore()
			for program, mib := range s.peaks() {
				peaks[program].add(fmt.Sprintf("%d VIPs", n), mib)
			}
		}
	}
	var all []Comparison
	small, large := fmt.Sprintf("%d VIPs", sizes[0]), fmt.Sprintf("%d VIPs", sizes[len(sizes)-1])
	for _, program := range measured {
		c := peaks[program].comparison("memory-"+program, "peak memory of "+program+" in ADD", "MiB", small)
		if program != "static" {
			c.Goals = []Goal{peaks[program].goal(c.ID, c.Title+", "+large+" / "+small, large, small, 1.3)}
		}
		all = append(all, c)
	}
	return all
}

// wrap makes a folder of programs that write down their peak memory.
func (s *site) wrap() (dir string) {
	s.t.Helper()
	for _, program := range measured {
		real, err := exec.LookPath(program)
		if err != nil {
			s.t.Fatal(err)
		}
		dir = filepath.Dir(s.write("wrapped/"+program, fmt.Sprintf("#!/bin/sh\nexec /usr/bin/time -a -o %s/peaks -f '%s %%M' %s\n", s.dir, program, real)))
	}
	return dir
}

// peaks reads what they have written, in MiB.
func (s *site) peaks() map[string]float64 {
	s.t.Helper()
	path := filepath.Join(s.dir, "peaks")
	data, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer os.Remove(path)
	all := map[string]float64{}
	for line := range strings.Lines(string(data)) {
		program, kib, _ := strings.Cut(strings.TrimSpace(line), " ")
		value, err := strconv.ParseFloat(kib, 64)
		if err != nil {
			s.t.Fatalf("time(1) wrote %q", line)
		}
		all[program] = max(all[program], value/1024)
	}
	return all
}
