package probe

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/internal/testtool"
)

// scan scans an image and returns the findings as text.
func scan(t *testing.T, r io.ReaderAt, size int64) []string {
	t.Helper()
	found, err := Scan(r, size)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, f := range found {
		texts = append(texts, f.String())
	}
	return texts
}

// patch is bytes at an offset; a negative offset counts from the end.
type patch struct {
	off   int64
	bytes string
}

func imageOf(size int64, patches ...patch) *bytes.Reader {
	b := make([]byte, size)
	for _, p := range patches {
		if p.off < 0 {
			p.off += size
		}
		copy(b[p.off:], p.bytes)
	}
	return bytes.NewReader(b)
}

func TestNothingFound(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 4095, 4096, 64 * kib, 64*kib + 1, 3 * mib} {
		if got := scan(t, imageOf(size), size); got != nil {
			t.Errorf("%d zero bytes: found %q", size, got)
		}
	}
}

// Every signature of the table is found where it can stand, by name and offset, alone on an image.
func TestEverySignature(t *testing.T) {
	const size = 5 * mib
	for _, s := range signatures {
		for _, off := range s.at(size) {
			if off < 0 || off+s.within+int64(len(s.magic)) > size {
				continue // a later copy
			}
			b := make([]byte, size)
			copy(b[off+s.within:], s.magic)
			satisfy(s, b[off:])
			got, err := Scan(bytes.NewReader(b), size)
			if err != nil {
				t.Fatal(err)
			}
			want := []Finding{{Kind: s.kind, Name: s.name, Offset: off + s.within}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s at %d (-want +got):\n%s", s.name, off, diff)
			}
			b[off+s.within] ^= 0xff
			if got, _ := Scan(bytes.NewReader(b), size); len(got) != 0 {
				t.Errorf("%s at %d with a wrong magic number: found %v", s.name, off, got)
			}
		}
	}
}

// satisfy writes what a signature wants beside its magic number.
func satisfy(s signature, b []byte) {
	switch {
	case s.magic == mdMagic && s.also != nil:
		b[4] = 1
	case s.name == "nilfs2":
		b[0], b[9] = 2, 1
	case s.name == "minix":
		b[29] = 4
	case s.name == "sun disk label":
		b[510], b[511] = 0xda, 0xbe
	}
}

func extImage(compat, incompat, rocompat byte) *bytes.Reader {
	return imageOf(64*kib, patch{1080, "\x53\xef"}, patch{1024 + 92, string([]byte{compat})},
		patch{1024 + 96, string([]byte{incompat})}, patch{1024 + 100, string([]byte{rocompat})})
}

func TestHandMadeImages(t *testing.T) {
	entry := "\x80\x00\x01\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00"
	protective := "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff"
	mark := patch{510, "\x55\xaa"}
	uberblock := "\x0c\xb1\xba\x00\x00\x00\x00\x00"
	tests := []struct {
		name  string
		image *bytes.Reader
		want  []string
	}{
		{"ext2", extImage(0, 2, 1), []string{"ext2, filesystem (at byte 1080)"}},
		{"ext3", extImage(4, 2, 1), []string{"ext3, filesystem (at byte 1080)"}},
		{"ext4", extImage(4, 0x42, 1), []string{"ext4, filesystem (at byte 1080)"}},
		{"ext4 by checksums", extImage(4, 2, 0x10), []string{"ext4, filesystem (at byte 1080)"}},
		{"ext journal", extImage(0, 8, 0), []string{"ext journal, filesystem (at byte 1080)"}},
		{"mbr", imageOf(mib, mark, patch{446, entry}), []string{"mbr, partition table (at byte 510)"}},
		{"empty mbr", imageOf(mib, mark), []string{"mbr without partitions, partition table (at byte 510)"}},
		{"unknown boot sector", imageOf(mib, mark, patch{446, "\x77"}), []string{"boot sector, partition table (at byte 510)"}},
		{"gpt", imageOf(mib, mark, patch{446, protective}, patch{512, "EFI PART"}, patch{-512, "EFI PART"}), []string{
			"mbr that protects a gpt, partition table (at byte 510)",
			"gpt, partition table (at byte 512)",
			"gpt backup, partition table (at byte 1048064)",
		}},
		{"only the backup of a gpt, 4096-byte sectors", imageOf(mib, patch{-4096, "EFI PART"}), []string{"gpt backup, partition table (at byte 1044480)"}},
		{"fat16", imageOf(mib, mark, patch{54, "FAT16   "}), []string{"fat, filesystem (at byte 54)"}},
		{"fat32", imageOf(mib, mark, patch{82, "FAT32   "}), []string{"fat, filesystem (at byte 82)"}},
		{"ntfs has no partitions", imageOf(mib, mark, patch{3, "NTFS    "}, patch{446, "code"}), []string{"ntfs, filesystem (at byte 3)"}},
		{"zfs, first label", imageOf(mib, patch{128 * kib, uberblock}), []string{"zfs, volume manager (at byte 131072)"}},
		{"zfs, last label, uberblocks of 8 KiB", imageOf(mib+5000, patch{1024*kib - 8*kib, uberblock}), []string{"zfs, volume manager (at byte 1040384)"}},
		{"zfs, big endian", imageOf(mib, patch{256*kib + 200*kib, "\x00\x00\x00\x00\x00\xba\xb1\x0c"}), []string{"zfs, volume manager (at byte 466944)"}},
		{"pool", imageOf(mib, patch{0, "FARSIDE\x00"}), []string{"another farside pool (at byte 0)"}},
		{"pool without its first block", imageOf(mib, patch{256 * kib, "FARSIDE\x00"}), []string{"another farside pool (at byte 262144)"}},
		{"farside in a text", imageOf(mib, patch{0, "FARSIDE is"}), nil},
		{"two things", imageOf(mib, patch{0, "LUKS\xba\xbe"}, patch{64*kib + 64, "_BHRfS_M"}), []string{
			"luks, encrypted volume (at byte 0)", "btrfs, filesystem (at byte 65600)",
		}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, scan(t, test.image, test.image.Size())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// makeImage runs a program on a new sparse file of that size and returns the file's path.
func makeImage(t *testing.T, size int64, stdin, program, debianPackage string, args ...string) string {
	t.Helper()
	program = testtool.Need(t, program, debianPackage)
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "IMAGE", path)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return path
}

// What real programs make is recognised.
func TestRealImages(t *testing.T) {
	tests := []struct {
		program, debianPackage string
		size                   int64
		stdin                  string
		args                   []string
		want                   []string
	}{
		{"mkfs.ext4", "e2fsprogs", 16 * mib, "", []string{"-q", "IMAGE"}, []string{"ext4, filesystem (at byte 1080)"}},
		{"mkfs.ext3", "e2fsprogs", 16 * mib, "", []string{"-q", "IMAGE"}, []string{"ext3, filesystem (at byte 1080)"}},
		{"mkfs.ext2", "e2fsprogs", 16 * mib, "", []string{"-q", "IMAGE"}, []string{"ext2, filesystem (at byte 1080)"}},
		{"mkswap", "util-linux", 16 * mib, "", []string{"IMAGE"}, []string{"swap, swap space (at byte 4086)"}},
		{"mkfs.btrfs", "btrfs-progs", 128 * mib, "", []string{"-q", "IMAGE"}, []string{"btrfs, filesystem (at byte 65600)"}},
		{"mkfs.xfs", "xfsprogs", 512 * mib, "", []string{"-q", "IMAGE"}, []string{"xfs, filesystem (at byte 0)"}},
		{"sfdisk", "fdisk", 16 * mib, "label: dos\n,8M\n", []string{"-q", "IMAGE"}, []string{"mbr, partition table (at byte 510)"}},
		{"sfdisk", "fdisk", 16 * mib, "label: dos\n", []string{"-q", "IMAGE"}, []string{"mbr without partitions, partition table (at byte 510)"}},
		{"parted", "parted", 16 * mib, "", []string{"-s", "IMAGE", "mklabel", "gpt", "mkpart", "x", "1MiB", "8MiB"}, []string{
			"mbr that protects a gpt, partition table (at byte 510)",
			"gpt, partition table (at byte 512)",
			"gpt backup, partition table (at byte 16776704)",
		}},
		{"sgdisk", "gdisk", 16 * mib, "", []string{"-n", "1:0:0", "IMAGE"}, []string{
			"mbr that protects a gpt, partition table (at byte 510)",
			"gpt, partition table (at byte 512)",
			"gpt backup, partition table (at byte 16776704)",
		}},
	}
	for _, test := range tests {
		t.Run(test.program, func(t *testing.T) {
			path := makeImage(t, test.size, test.stdin, test.program, test.debianPackage, test.args...)
			report, err := Device(path)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range report.Findings {
				got = append(got, f.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			if report.Size != test.size || report.Block {
				t.Errorf("size %d, block %v; want %d and a file", report.Size, report.Block, test.size)
			}
		})
	}
}

// broken fails to read one page.
type broken struct {
	*bytes.Reader
	page int64
}

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off == b.page {
		return 0, errors.New("input/output error")
	}
	return b.Reader.ReadAt(p, off)
}

func TestReadErrorIsNotEmpty(t *testing.T) {
	r := imageOf(mib, patch{64*kib + 64, "_BHRfS_M"})
	found, err := Scan(broken{r, 0}, r.Size())
	if err == nil || !strings.Contains(err.Error(), "read of 4096 bytes at byte 0") {
		t.Errorf("error %v, want one that names the place", err)
	}
	if len(found) != 1 || found[0].Name != "btrfs" {
		t.Errorf("found %v, want btrfs beside the error", found)
	}
	found, err = Scan(imageOf(4096), 8192)
	if !errors.Is(err, io.EOF) {
		t.Errorf("a device shorter than its size: found %v, error %v; want io.EOF", found, err)
	}
}

func TestDeviceRefusesOtherFiles(t *testing.T) {
	if _, err := Device(t.TempDir()); err == nil || !strings.Contains(err.Error(), "neither a block device nor a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Device("/dev/null"); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("a character device: %v", err)
	}
	if _, err := Device(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte("LABELONE"), int64(512))
	f.Add([]byte("\x53\xef"), int64(1080))
	f.Add([]byte("\xfc\x4e\x2b\xa9\x01"), int64(4096))
	f.Fuzz(func(t *testing.T, b []byte, off int64) {
		const size = 300 * kib
		if off < 0 || off > size {
			return
		}
		found, err := Scan(imageOf(size, patch{off, string(b)}), size)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range found {
			if s.Offset < 0 || s.Offset >= size {
				t.Fatalf("finding %v outside of the image", s)
			}
		}
	})
}
