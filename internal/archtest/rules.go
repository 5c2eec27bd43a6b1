package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the path of this module.
const Module = "github.com/farside-storage/farside"

// Package is what the rules look at.
type Package struct {
	// Path is relative to the module: "ring/ringtest"; "" is the top level.
	Path string
	// Name is the package clause.
	Name string
	// Doc: some file has a package comment.
	Doc bool
	// Imports of the package's files, and of its tests in addition.
	Imports, TestImports []string
}

// mayReach lists, for each top-level folder, the folders that its packages may reach, through
// whatever packages. Its own is understood. "internal" stands for every internal package that a
// folder may import; what that one reaches counts as well.
var mayReach = map[string][]string{
	"cmd":     {"bench", "manager", "primary", "nbd", "engine", "wire", "ring", "alloc", "internal"},
	"manager": {"wire"},
	"primary": {"wire", "ring"},
	"engine":  {"ring", "alloc"},
	"nbd":     {},
	"wire":    {},
	"ring":    {},
	"alloc":   {},
	"bench":   {"engine", "ring", "wire", "alloc", "internal"},
	// Glue between all of them: whoever may import it is what matters.
	"internal": {"bench", "manager", "primary", "nbd", "engine", "wire", "ring", "alloc"},
}

// planted is the one internal package that every folder may import: it names the faults that tests of the simulator
// plant, is empty in the product, and imports nothing.
const planted = "internal/plant"

// simulated is the one package for tests that the program holds: "farside sim" runs it.
const simulated = "internal/sim"

// separate are folders that never reach each other, in tests neither.
var separate = [][2]string{{"wire", "engine"}}

// embedded are the folders that firmware embeds: outside the standard library they import these modules
// only.
var embedded = map[string]bool{"engine": true, "ring": true, "alloc": true}

var embeddable = []string{"golang.org/x/sys", "github.com/cespare/xxhash/v2", "github.com/iceber/iouring-go/syscall"}

// onlyIn are modules that one package alone imports: nobody else should have to build or trust them.
var onlyIn = map[string]string{"go.etcd.io/etcd": "manager/etcdlog"}

// forbiddenNames say nothing of what a package is for.
var forbiddenNames = map[string]bool{
	"util": true, "utils": true, "common": true, "helper": true, "helpers": true, "misc": true, "shared": true, "base": true, "lib": true,
}

// Violations returns every breach of a rule, sorted.
func Violations(packages []Package) []string {
	c := checker{packages: map[string]Package{}}
	for _, p := range packages {
		c.packages[p.Path] = p
	}
	for _, p := range packages {
		c.look(p)
	}
	slices.Sort(c.found)
	return slices.Compact(c.found)
}

type checker struct {
	packages map[string]Package
	found    []string
}

func (c *checker) violation(p Package, format string, args ...any) {
	c.found = append(c.found, p.Path+": "+fmt.Sprintf(format, args...))
}

func (c *checker) look(p Package) {
	if !p.Doc && p.Name != "" { // a folder of tests alone has no package clause that counts
		c.violation(p, "has no package comment")
	}
	for _, name := range append(strings.Split(p.Path, "/"), p.Name) {
		if forbiddenNames[name] {
			c.violation(p, "the name %q says nothing of what it is for", name)
		}
	}
	allowed, known := mayReach[top(p.Path)]
	if !known {
		c.violation(p, "no rule knows the folder %q: add one to mayReach", top(p.Path))
		return
	}
	c.reach(p, allowed)
	c.apart(p)
	c.outside(p)
	c.confined(p)
	c.testOnly(p)
}

// reach checks the folders that p reaches.
func (c *checker) reach(p Package, allowed []string) {
	for path, via := range c.closure(p, p.Imports) {
		if path == planted && len(c.packages[path].Imports) == 0 {
			continue
		}
		if folder := top(path); folder != top(p.Path) && !slices.Contains(allowed, folder) {
			c.violation(p, "may not import %s%s", path, through(via))
		}
	}
}

// apart checks the pairs of separate folders, tests included.
func (c *checker) apart(p Package) {
	for path, via := range c.closure(p, append(slices.Clone(p.Imports), p.TestImports...)) {
		for _, pair := range separate {
			a, b := top(p.Path), top(path)
			if a == pair[0] && b == pair[1] || a == pair[1] && b == pair[0] {
				c.violation(p, "%s and %s never import each other, and it imports %s%s", pair[0], pair[1], path, through(via))
			}
		}
	}
}

// outside checks the modules that embedded packages import.
func (c *checker) outside(p Package) {
	if !embedded[top(p.Path)] || forTests(p.Path) {
		return
	}
	for _, path := range p.Imports {
		if _, ours := local(path); ours || standard(path) {
			continue
		}
		if !slices.ContainsFunc(embeddable, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") }) {
			c.violation(p, "may not import %s: firmware embeds this package", path)
		}
	}
}

// confined checks modules that only one package imports; tests may, too.
func (c *checker) confined(p Package) {
	for _, path := range p.Imports {
		for module, home := range onlyIn {
			if strings.HasPrefix(path, module+"/") && p.Path != home {
				c.violation(p, "may not import %s: only %s does", path, home)
			}
		}
	}
}

// testOnly keeps packages for tests out of what is built.
func (c *checker) testOnly(p Package) {
	if forTests(p.Path) {
		return
	}
	for _, path := range p.Imports {
		if ours, ok := local(path); ours == simulated && top(p.Path) == "cmd" {
			continue
		} else if path == "testing" || strings.HasPrefix(path, "testing/") || ok && forTests(ours) {
			c.violation(p, "imports %s, which is for tests", path)
		}
	}
}

// forTests are packages that only tests import, or that simulate: ring/ringtest and what is in it.
func forTests(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasSuffix(part, "test") || part == "testtool" {
			return true
		}
	}
	return strings.HasPrefix(path, "internal/sim")
}

// closure returns the packages of the module that the imports reach, each with the packages on the way.
func (c *checker) closure(p Package, imports []string) map[string][]string {
	reached := map[string][]string{}
	var follow func(imports []string, via []string)
	follow = func(imports []string, via []string) {
		for _, path := range imports {
			ours, ok := local(path)
			if _, seen := reached[ours]; !ok || seen || ours == p.Path {
				continue
			}
			reached[ours] = via
			follow(c.packages[ours].Imports, append(slices.Clone(via), ours))
		}
	}
	follow(imports, nil)
	return reached
}

func through(via []string) string {
	if len(via) == 0 {
		return ""
	}
	return " (through " + strings.Join(via, ", ") + ")"
}

// top is the top-level folder of a package.
func top(path string) string {
	folder, _, _ := strings.Cut(path, "/")
	return folder
}

// local returns the path within the module.
func local(path string) (string, bool) {
	if path == Module {
		return "", true
	}
	return strings.CutPrefix(path, Module+"/")
}

// standard says whether an import is of the standard library: no dot in its first element.
func standard(path string) bool { return !strings.Contains(top(path), ".") }
