package packages

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// architecture is what the programs of one are.
type architecture struct {
	machine  elf.Machine
	class    elf.Class
	data     elf.Data
	deb, rpm string
}

var architectures = map[string]architecture{
	"amd64":   {elf.EM_X86_64, elf.ELFCLASS64, elf.ELFDATA2LSB, "amd64", "x86_64"},
	"arm64":   {elf.EM_AARCH64, elf.ELFCLASS64, elf.ELFDATA2LSB, "arm64", "aarch64"},
	"armv7":   {elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB, "armhf", "armv7hl"},
	"ppc64le": {elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2LSB, "ppc64el", "ppc64le"},
	"riscv64": {elf.EM_RISCV, elf.ELFCLASS64, elf.ELFDATA2LSB, "riscv64", "riscv64"},
	"s390x":   {elf.EM_S390, elf.ELFCLASS64, elf.ELFDATA2MSB, "s390x", "s390x"},
}

// TestRelease makes a release twice, for the architectures that RELEASE_ARCHES
// names: all of them take long.
func TestRelease(t *testing.T) {
	arches := strings.Fields(cmp.Or(os.Getenv("RELEASE_ARCHES"), "s390x"))
	dir := release(t, arches, "022")
	t.Run("reproducible", func(t *testing.T) {
		again := release(t, arches, "077", "TZ=Pacific/Auckland", "LC_ALL=C.UTF-8", "HOSTNAME=elsewhere")
		sums := string(read(t, filepath.Join(dir, "SHA256SUMS")))
		if other := string(read(t, filepath.Join(again, "SHA256SUMS"))); other != sums {
			t.Errorf("the first time:\n%s\nthe second time:\n%s", sums, other)
		}
	})
	for _, arch := range arches {
		t.Run(arch, func(t *testing.T) { wantRelease(t, dir, arch, architectures[arch]) })
	}
	t.Run("checksums", func(t *testing.T) {
		check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
		check.Dir = dir
		out, err := check.CombinedOutput()
		if err != nil || strings.Count(string(out), ": OK\n") != 4*len(arches) {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func release(t *testing.T, arches []string, umask string, env ...string) (dir string) {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.Command("sh", "-c", "umask "+umask+` && exec "$@"`, "sh",
		"make", "-C", top(t), "release", "DIST="+dist, "PKGVERSION="+older, "ARCHES="+strings.Join(arches, " "))
	cmd.Env = append(os.Environ(), append(env, "SOURCE_DATE_EPOCH=1767225600")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make release: %v\n%s", err, out)
	}
	return filepath.Join(dist, "release")
}

// wantRelease: all that there is for an architecture is for it and the same.
func wantRelease(t *testing.T, dir, arch string, is architecture) {
	base := "macvlan-vip-" + older + "-linux-" + arch
	tarball, deb := t.TempDir(), t.TempDir()
	for _, command := range [][]string{
		{"tar", "-C", tarball, "--strip-components=1", "-xzf", filepath.Join(dir, base+".tar.gz")},
		{"dpkg-deb", "-x", filepath.Join(dir, "macvlan-vip_"+older+"-1_"+is.deb+".deb"), deb},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, out)
		}
	}
	rpm := read(t, filepath.Join(dir, "macvlan-vip-"+older+"-1."+is.rpm+".rpm"))
	// The lead of an RPM package, 96 bytes, is followed by the signature's header.
	if !bytes.HasPrefix(rpm, []byte{0xed, 0xab, 0xee, 0xdb}) {
		t.Errorf("the RPM package begins with % x", rpm[:4])
	}
	unpacked := programs(t, tarball, is)
	if len(unpacked) < 8 {
		t.Errorf("%d programs in the tarball", len(unpacked))
	}
	// They lie in other folders, with the same names.
	if in, out := digests(unpacked), digests(programs(t, deb, is)); !slices.Equal(in, out) {
		t.Errorf("in the tarball:\n%s\nin the package:\n%s", strings.Join(in, "\n"), strings.Join(out, "\n"))
	}
	wantBill(t, filepath.Join(dir, base+".cdx.json"), tarball, unpacked)
}

// programs are the SHA-256 of all executables below a folder, by their paths
// there. Each must be static and of the architecture.
func programs(t *testing.T, root string, is architecture) map[string]string {
	t.Helper()
	found := map[string]string{}
	for path := range strings.FieldsSeq(findPrograms(t, root)) {
		file, err := elf.Open(filepath.Join(root, path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if file.Machine != is.machine || file.Class != is.class || file.Data != is.data {
			t.Errorf("%s is for %v, %v, %v", path, file.Machine, file.Class, file.Data)
		}
		if slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Errorf("%s is linked dynamically", path)
		}
		file.Close()
		found["/"+path] = fmt.Sprintf("%x", sha256.Sum256(read(t, filepath.Join(root, path))))
	}
	return found
}

func digests(programs map[string]string) []string {
	var all []string
	for path, sum := range programs {
		all = append(all, filepath.Base(path)+" "+sum)
	}
	slices.Sort(all)
	return all
}

func findPrograms(t *testing.T, root string) string {
	t.Helper()
	find := exec.Command("find", ".", "-type", "f", "-perm", "-100", "-printf", "%P\n")
	find.Dir = root
	out, err := find.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// wantBill: the bill of materials has every program with its hash, every module
// that the linker has put into one with a version and a licence, and nothing else.
func wantBill(t *testing.T, path, root string, programs map[string]string) {
	t.Helper()
	var bill struct {
		SerialNumber string
		Components   []struct {
			Type, Name, Version string
			Hashes              []struct{ Alg, Content string }
			Licenses            []struct{ License struct{ ID string } }
		}
	}
	if err := json.Unmarshal(read(t, path), &bill); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"std": true}
	for program := range programs {
		for _, module := range modules(t, filepath.Join(root, program)) {
			want[module] = true
		}
		want[program] = true
	}
	for _, c := range bill.Components {
		// Upstream's programs are their own modules, and no dependency of theirs.
		if !want[c.Name] && !strings.HasPrefix(c.Name, "github.com/containernetworking/") {
			t.Errorf("%s is in no program", c.Name)
		}
		delete(want, c.Name)
		if c.Type == "application" && (len(c.Hashes) != 1 || c.Hashes[0].Content != programs[c.Name]) {
			t.Errorf("%s: hashes %v", c.Name, c.Hashes)
		}
		if c.Type == "library" && (c.Version == "" || len(c.Licenses) != 1 || c.Licenses[0].License.ID == "") {
			t.Errorf("%s: version %q, licences %v", c.Name, c.Version, c.Licenses)
		}
	}
	if len(want) > 0 {
		t.Errorf("not in the bill: %v", want)
	}
	if bill.SerialNumber != "" {
		t.Errorf("a serial number that is another each time: %s", bill.SerialNumber)
	}
}
