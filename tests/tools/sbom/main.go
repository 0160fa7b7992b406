// sbom prints a bill of materials, as CycloneDX 1.6 JSON, of Go programs: each
// with its hash, and the modules that the linker put into it.
//
//	sbom NAME VERSION ARCH COPYRIGHT FOLDER PROGRAM...
//
// COPYRIGHT is a file in Debian's machine-readable form whose Files are the
// paths of modules. Programs are named below FOLDER. The time is that of
// SOURCE_DATE_EPOCH, in seconds since 1970, and there is no serial number, so
// that the same programs have the same bill.
package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "sbom: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 6 {
		return fmt.Errorf("usage: sbom NAME VERSION ARCH COPYRIGHT FOLDER PROGRAM...")
	}
	name, version, arch, copyright, folder, programs := args[0], args[1], args[2], args[3], args[4], args[5:]
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	b := bill{name: name, modules: map[string]cdx.Component{}}
	if b.licences, err = readLicences(copyright); err != nil {
		return err
	}
	for _, program := range programs {
		if err := b.add(folder, program); err != nil {
			return err
		}
	}
	bom := b.document(version, arch)
	bom.Metadata.Timestamp = time.Unix(seconds, 0).UTC().Format(time.RFC3339)
	return cdx.NewBOMEncoder(os.Stdout, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// bill is what has been found so far.
type bill struct {
	// name is the product's, and its own module's.
	name     string
	licences map[string]string
	programs []cdx.Component
	// modules are known by their references, which are package URLs.
	modules map[string]cdx.Component
	links   []cdx.Dependency
}

// add reads the program and what is linked into it.
func (b *bill) add(folder, program string) error {
	data, err := os.ReadFile(filepath.Join(folder, program))
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(filepath.Join(folder, program))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	b.programs = append(b.programs, cdx.Component{
		BOMRef: "/" + program, Type: cdx.ComponentTypeApplication, Name: "/" + program,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	})
	modules := append(info.Deps, &debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")})
	// Its own module is upstream's, or this project's, which is the bill's subject.
	if info.Main.Path != b.name {
		modules = append(modules, &info.Main)
	}
	var refs []string
	for _, m := range modules {
		ref, err := b.module(m)
		if err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
		refs = append(refs, ref)
	}
	slices.Sort(refs)
	b.links = append(b.links, cdx.Dependency{Ref: "/" + program, Dependencies: &refs})
	return nil
}

func (b *bill) module(m *debug.Module) (ref string, err error) {
	licence, ok := b.licences[m.Path]
	if !ok {
		return "", fmt.Errorf("no licence of module %s is known", m.Path)
	}
	if m.Replace != nil {
		m = m.Replace
	}
	ref = "pkg:golang/" + m.Path + "@" + url.QueryEscape(m.Version)
	b.modules[ref] = cdx.Component{
		BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: ref,
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: licence}}},
	}
	return ref, nil
}

// document is the bill with the product as its subject.
func (b *bill) document(version, arch string) *cdx.BOM {
	bom := cdx.NewBOM()
	product := "pkg:generic/" + b.name + "@" + url.QueryEscape(version) + "?arch=" + arch
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: product, Type: cdx.ComponentTypeApplication, Name: b.name, Version: version, PackageURL: product,
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: b.licences["*"]}}},
	}}
	components := b.programs
	var programs []string
	for _, p := range b.programs {
		programs = append(programs, p.BOMRef)
	}
	links := append([]cdx.Dependency{{Ref: product, Dependencies: &programs}}, b.links...)
	for _, m := range b.modules {
		components = append(components, m)
		links = append(links, cdx.Dependency{Ref: m.BOMRef})
	}
	slices.SortFunc(components, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	slices.SortFunc(links, func(a, b cdx.Dependency) int { return cmp.Compare(a.Ref, b.Ref) })
	bom.Components, bom.Dependencies = &components, &links
	return bom
}

// identifiers are SPDX's, for Debian's short names that differ.
var identifiers = map[string]string{"Expat": "MIT", "BSD-2-clause": "BSD-2-Clause", "BSD-3-clause": "BSD-3-Clause"}

// readLicences gives the licence of each module, as an SPDX identifier.
func readLicences(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	licences := map[string]string{}
	for paragraph := range strings.SplitSeq(string(data), "\n\n") {
		var field string
		var files []string
		for line := range strings.Lines(paragraph) {
			if name, _, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
				field = name
				line = strings.TrimPrefix(line, name+":")
			}
			switch field {
			case "Files":
				files = append(files, strings.Fields(line)...)
			case "License":
				licence := strings.TrimSpace(line)
				for _, file := range files {
					licences[file] = cmp.Or(identifiers[licence], licence)
				}
				files = nil
			}
		}
	}
	return licences, nil
}
