package cni

import "golang.org/x/sys/unix"

// skipCall has the kernel make no system call in place of the one that a
// thread is about to make; setResult then gives the thread an error for it.
func skipCall(thread int) error {
	return registers(thread, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) })
}

func setResult(thread int, errno unix.Errno) error {
	return registers(thread, func(r *unix.PtraceRegs) { r.Rax = -uint64(errno) })
}

func registers(thread int, set func(*unix.PtraceRegs)) error {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(thread, &r); err != nil {
		return err
	}
	set(&r)
	return unix.PtraceSetRegs(thread, &r)
}
