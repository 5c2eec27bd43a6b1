package archtest

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Read reads the packages of the module whose files are under root. Folders that the go command
// leaves out (testdata, names that begin with "." or "_") are left out.
func Read(root string) ([]Package, error) {
	var packages []Package
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return filepath.SkipDir
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		p, found, err := readPackage(path, strings.TrimPrefix(filepath.ToSlash(rel), "."))
		if found {
			packages = append(packages, p)
		}
		return err
	})
	return packages, err
}

// readPackage reads the package in one folder. A folder with tests alone counts: it has imports.
func readPackage(dir, rel string) (p Package, found bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return p, false, err
	}
	p.Path = rel
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".go") || strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "_") {
			continue
		}
		found = true
		if err := p.add(filepath.Join(dir, e.Name())); err != nil {
			return p, found, err
		}
	}
	return p, found, nil
}

func (p *Package) add(file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	test := strings.HasSuffix(file, "_test.go")
	if !test {
		p.Name = f.Name.Name
		p.Doc = p.Doc || f.Doc != nil && !strings.HasPrefix(f.Doc.Text(), "Code generated")
	}
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", file, spec.Path.Value, err)
		}
		if test {
			p.TestImports = append(p.TestImports, path)
		} else {
			p.Imports = append(p.Imports, path)
		}
	}
	return nil
}
