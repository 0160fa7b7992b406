package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

// SetSysctls writes those of one side that differ, and returns what they were
// before. What was written before an error is returned with the error.
func (k *Kernel) SetSysctls(side plan.Side, all []plan.Sysctl) (before []plan.Sysctl, err error) {
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	err = n.Do(func() error {
		for _, s := range all {
			old, err := readSysctl(s.Key)
			if s.Optional && errors.Is(err, fs.ErrNotExist) || err == nil && satisfies(old, s) {
				continue
			}
			// Some keys can only be written, so only writing tells.
			if err := os.WriteFile(sysctlFile(s.Key), []byte(s.Value), 0); err != nil {
				return sysctlError(s, err)
			}
			if err == nil {
				was := s
				was.Value = old
				before = append(before, was)
			}
		}
		return nil
	})
	return before, err
}

func sysctlFile(key string) string { return filepath.Join("/proc/sys", key) }

func readSysctl(key string) (string, error) {
	data, err := os.ReadFile(sysctlFile(key))
	return strings.TrimSpace(string(data)), err
}

func satisfies(have string, want plan.Sysctl) bool {
	if want.AtLeast {
		is, err1 := strconv.Atoi(have)
		least, err2 := strconv.Atoi(want.Value)
		return err1 == nil && err2 == nil && is >= least
	}
	return sameValue(have, want.Value)
}

// sameValue compares as the kernel reads: the numbers of a list may be parted
// by any white space.
func sameValue(a, b string) bool {
	return slices.Equal(strings.Fields(a), strings.Fields(b))
}

func sysctlError(s plan.Sysctl, err error) error {
	key := strings.ReplaceAll(s.Key, "/", ".")
	e := &cnierr.Error{Code: types.ErrInvalidNetworkConfig, Text: fmt.Sprintf("sysctl: %s = %q in the %s's netns", key, s.Value, s.Side), Cause: err}
	e.Remedy = "use a value that the kernel takes for this key"
	if errors.Is(err, fs.ErrNotExist) {
		e.Remedy = "correct the key, or leave it out: this kernel has none of that name in a network namespace"
	}
	return e
}

// CheckSysctls says which of one side have another value. Keys that can only
// be written are taken as right.
func (k *Kernel) CheckSysctls(side plan.Side, all []plan.Sysctl) (drift []string, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	err = n.Do(func() error {
		for _, s := range all {
			have, err := readSysctl(s.Key)
			switch {
			case errors.Is(err, fs.ErrNotExist) && !s.Optional:
				drift = append(drift, s.String()+": missing")
			case err == nil && !satisfies(have, s):
				drift = append(drift, fmt.Sprintf("%s: is %s", s, have))
			}
		}
		return nil
	})
	return drift, err
}
