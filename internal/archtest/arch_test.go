package archtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// The module keeps its rules.
func TestArchitecture(t *testing.T) {
	packages, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range packages {
		paths = append(paths, p.Path)
	}
	for _, must := range []string{"wire", "ring", "ring/ringtest", "alloc", "cmd/farside", "internal/archtest"} {
		if !slices.Contains(paths, must) {
			t.Errorf("the package %s was not read: only %q", must, paths)
		}
	}
	for _, v := range Violations(packages) {
		t.Error(v)
	}
}

// What an embedder builds: the go command's own view of everything that engine, ring and alloc depend on,
// dependencies of dependencies included.
func TestEmbeddedDependencies(t *testing.T) {
	for folder := range embedded {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./"+folder)
		cmd.Dir = root
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list ./%s: %v\n%s", folder, err, stderr.String())
		}
		for path := range strings.FieldsSeq(string(out)) {
			if ours, ok := local(path); ok {
				if ours != planted && folder != top(ours) && !slices.Contains(mayReach[folder], top(ours)) {
					t.Errorf("%s depends on %s", folder, path)
				}
				continue
			}
			if !slices.ContainsFunc(embeddable, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") }) {
				t.Errorf("%s depends on %s, which is not among %q", folder, path, embeddable)
			}
		}
	}
}

// sound is a small module that keeps every rule.
func sound() map[string]*Package {
	packages := map[string]*Package{}
	for _, p := range []Package{
		{Path: "wire", Imports: []string{"io", "github.com/cespare/xxhash/v2"}},
		{Path: "ring", Imports: []string{"golang.org/x/sys/unix", "github.com/iceber/iouring-go/syscall"}},
		{Path: "ring/ringtest", Imports: []string{"testing", Module + "/ring"}},
		{Path: "ring/ringtest/conformance", Imports: []string{"testing", "pgregory.net/rapid"}},
		{Path: "alloc"},
		{Path: "engine", Imports: []string{Module + "/ring", Module + "/alloc"}, TestImports: []string{"testing", Module + "/ring/ringtest", Module + "/internal/testtool", "pgregory.net/rapid"}},
		{Path: "nbd"},
		{Path: "primary", Imports: []string{Module + "/wire", Module + "/ring"}},
		{Path: "manager", Imports: []string{Module + "/wire", "go.etcd.io/bbolt"}},
		{Path: "manager/etcdlog", Imports: []string{"go.etcd.io/etcd/client/v3"}, TestImports: []string{Module + "/internal/testtool"}},
		{Path: "bench", Imports: []string{Module + "/engine", Module + "/wire"}},
		{Path: "internal/testtool", Imports: []string{"testing"}},
		{Path: "internal/target", Imports: []string{Module + "/engine", Module + "/wire", Module + "/nbd"}},
		{Path: "cmd/farside", Name: "main", Imports: []string{Module + "/internal/target", Module + "/manager"}},
	} {
		p.Doc = true
		if p.Name == "" {
			p.Name = filepath.Base(p.Path)
		}
		packages[p.Path] = &p
	}
	return packages
}

// Each rule notices a violation, and nothing else is noticed.
func TestRulesNotice(t *testing.T) {
	imports := func(path string, what ...string) func(map[string]*Package) {
		return func(m map[string]*Package) { m[path].Imports = append(m[path].Imports, what...) }
	}
	tests := []struct {
		name  string
		plant func(map[string]*Package)
		want  []string
	}{
		{"nothing planted", func(map[string]*Package) {}, nil},
		{"no comment", func(m map[string]*Package) { m["nbd"].Doc = false }, []string{"nbd: has no package comment"}},
		{"utils", func(m map[string]*Package) {
			m["internal/utils"] = &Package{Path: "internal/utils", Name: "utils", Doc: true}
		},
			[]string{`internal/utils: the name "utils" says nothing of what it is for`}},
		{"a folder named common", func(m map[string]*Package) {
			m["internal/common/bits"] = &Package{Path: "internal/common/bits", Name: "bits", Doc: true}
		}, []string{`internal/common/bits: the name "common" says nothing of what it is for`}},
		{"a package clause", func(m map[string]*Package) { m["alloc"].Name = "helpers" }, []string{`alloc: the name "helpers" says nothing of what it is for`}},
		{"a folder without a rule", func(m map[string]*Package) { m["extra"] = &Package{Path: "extra", Name: "extra", Doc: true} },
			[]string{`extra: no rule knows the folder "extra": add one to mayReach`}},
		{"code at the top level", func(m map[string]*Package) { m[""] = &Package{Name: "farside", Doc: true} },
			[]string{`: no rule knows the folder "": add one to mayReach`}},
		{"nbd imports wire", imports("nbd", Module+"/wire"), []string{"nbd: may not import wire"}},
		{"primary imports engine", imports("primary", Module+"/engine"), []string{
			"primary: may not import alloc (through engine)", "primary: may not import engine",
		}},
		{"manager through glue", imports("manager", Module+"/internal/target"), []string{
			"manager: may not import alloc (through internal/target, engine)", "manager: may not import engine (through internal/target)",
			"manager: may not import internal/target", "manager: may not import nbd (through internal/target)",
			"manager: may not import ring (through internal/target, engine)",
		}},
		{"wire imports engine", imports("wire", Module+"/engine"), []string{
			"manager: may not import alloc (through wire, engine)", "manager: may not import engine (through wire)",
			"manager: may not import ring (through wire, engine)", "primary: may not import alloc (through wire, engine)",
			"primary: may not import engine (through wire)", "wire: may not import alloc (through engine)", "wire: may not import engine",
			"wire: may not import ring (through engine)", "wire: wire and engine never import each other, and it imports engine",
		}},
		{"a test of engine imports wire", func(m map[string]*Package) { m["engine"].TestImports = append(m["engine"].TestImports, Module+"/wire") },
			[]string{"engine: wire and engine never import each other, and it imports wire"}},
		{"a module outside", imports("engine", "github.com/google/uuid"), []string{"engine: may not import github.com/google/uuid: firmware embeds this package"}},
		{"the wrong package of a module", imports("ring", "github.com/iceber/iouring-go"), []string{"ring: may not import github.com/iceber/iouring-go: firmware embeds this package"}},
		{"a name that only begins the same", imports("alloc", "golang.org/x/system"), []string{"alloc: may not import golang.org/x/system: firmware embeds this package"}},
		{"the manager imports etcd", imports("manager", "go.etcd.io/etcd/client/v3"), []string{"manager: may not import go.etcd.io/etcd/client/v3: only manager/etcdlog does"}},
		{"planted faults", func(m map[string]*Package) {
			m[planted] = &Package{Path: planted, Name: "plant", Doc: true}
			imports("engine", Module+"/"+planted)(m)
		}, nil},
		{"planted faults that import", func(m map[string]*Package) {
			m[planted] = &Package{Path: planted, Name: "plant", Doc: true, Imports: []string{"fmt"}}
			imports("alloc", Module+"/"+planted)(m)
		}, []string{"alloc: may not import internal/plant", "engine: may not import internal/plant (through alloc)"}},
		{"the simulation in a command", func(m map[string]*Package) {
			m[simulated] = &Package{Path: simulated, Name: "sim", Doc: true}
			imports("cmd/farside", Module+"/"+simulated)(m)
		}, nil},
		{"the simulation in production", func(m map[string]*Package) {
			m[simulated] = &Package{Path: simulated, Name: "sim", Doc: true}
			imports("bench", Module+"/"+simulated)(m)
		}, []string{"bench: imports " + Module + "/" + simulated + ", which is for tests"}},
		{"testing in production", imports("bench", "testing"), []string{"bench: imports testing, which is for tests"}},
		{"a simulated device in production", imports("engine", Module+"/ring/ringtest"), []string{"engine: imports " + Module + "/ring/ringtest, which is for tests"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := sound()
			test.plant(m)
			var packages []Package
			for _, p := range m {
				packages = append(packages, *p)
			}
			if diff := cmp.Diff(test.want, Violations(packages)); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

// Read finds names, comments and imports, and leaves out what the go command leaves out.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/a.go":            "// Package a is documented.\npackage a\nimport \"io\"\n",
		"a/a_windows.go":    "package a\nimport u \"os/user\"\n",
		"a/a_test.go":       "// A comment of a test does not count.\npackage a_test\nimport \"testing\"\n",
		"a/b/b.go":          "package b\n",
		"a/testdata/x/x.go": "package x\n",
		"_old/o.go":         "package o\n",
		".hidden/h.go":      "package h\n",
		"a/_draft.go":       "not Go\n",
		"only/o_test.go":    "package only\n",
		"none/readme.txt":   "",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{Path: "a", Name: "a", Doc: true, Imports: []string{"io", "os/user"}, TestImports: []string{"testing"}},
		{Path: "a/b", Name: "b"},
		{Path: "only"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/bad.go"), []byte("pakcage a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("a file that is not Go was read")
	}
}
