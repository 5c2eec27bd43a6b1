package config

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// BlockSize is the size in bytes of a virtual block.
const BlockSize = 4096

// maxSize is the largest size in bytes: offsets are signed 64-bit numbers.
const maxSize = math.MaxInt64

// Size is a number of bytes, written as "64GiB", "4 MiB", "1.5TB" or a plain number of bytes.
type Size uint64

// units in bytes. "K", "M", "G" alone are left out on purpose: some tools take them as powers of
// 1000, others of 1024, and a volume of the wrong size is found late.
var units = map[string]uint64{
	"": 1, "b": 1,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15,
}

// ParseSize parses a size exactly: a fraction is accepted only if it is a whole number of
// bytes.
func ParseSize(text string) (Size, error) {
	s := strings.TrimSpace(text)
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := strings.ToLower(s[len(digits):])
	digits = strings.TrimRight(digits, " ")
	scale, ok := units[unit]
	if !ok {
		return 0, badUnit(text, unit)
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	n, err := scaled(whole, fraction, scale)
	if err != nil {
		return 0, fmt.Errorf("%q %w", text, err)
	}
	return Size(n), nil
}

func badUnit(text, unit string) error {
	if len(unit) == 1 && strings.Contains("kmgtp", unit) {
		up := strings.ToUpper(unit)
		return fmt.Errorf("%q: the unit %q is ambiguous: write %siB (powers of 1024) or %sB (powers of 1000)", text, up, up, up)
	}
	return fmt.Errorf("%q has the unknown unit %q: write B, KiB, MiB, GiB, TiB, PiB, kB, MB, GB, TB or PB", text, unit)
}

// scaled returns whole.fraction * scale, if that is a whole number within maxSize.
func scaled(whole, fraction string, scale uint64) (uint64, error) {
	n, err := decimal(whole)
	if err != nil {
		return 0, err
	}
	high, total := bits.Mul64(n, scale)
	if high != 0 || total > maxSize {
		return 0, fmt.Errorf("is larger than the largest size, %d bytes", uint64(maxSize))
	}
	fraction = strings.TrimRight(fraction, "0")
	if fraction == "" {
		return total, nil
	}
	f, err := decimal(fraction)
	if err != nil {
		return 0, err
	}
	if len(fraction) > 18 {
		return 0, fmt.Errorf("is not a whole number of bytes")
	}
	divisor := uint64(1)
	for range fraction {
		divisor *= 10
	}
	// f < divisor, so that the quotient is less than scale and Div64 cannot panic.
	high, low := bits.Mul64(f, scale)
	part, rest := bits.Div64(high, low, divisor)
	if rest != 0 {
		return 0, fmt.Errorf("is not a whole number of bytes")
	}
	if total+part > maxSize {
		return 0, fmt.Errorf("is larger than the largest size, %d bytes", uint64(maxSize))
	}
	return total + part, nil
}

// decimal parses digits only: no sign, no underscore, no exponent.
func decimal(s string) (uint64, error) {
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("is not a size: write a number and a unit, such as \"64GiB\"")
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	switch {
	case s == "":
		return 0, fmt.Errorf("is not a size: write a number and a unit, such as \"64GiB\"")
	case err != nil:
		return 0, fmt.Errorf("is larger than the largest size, %d bytes", uint64(maxSize))
	}
	return n, nil
}

// UnmarshalText parses as [ParseSize] does.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	if err == nil {
		*s = v
	}
	return err
}

// String prints the size exactly, in the largest binary unit that divides it.
func (s Size) String() string {
	names := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for s != 0 && s%1024 == 0 && i < len(names)-1 {
		s /= 1024
		i++
	}
	return strconv.FormatUint(uint64(s), 10) + names[i]
}

// CheckVolumeSize says whether a volume can have the size; if not, the error names the nearest
// sizes that it can have.
func CheckVolumeSize(s Size) error {
	if s != 0 && s%BlockSize == 0 && s <= maxSize {
		return nil
	}
	below := s - s%BlockSize
	if s > maxSize {
		return fmt.Errorf("%d bytes is larger than the largest volume size, %s", uint64(s), Size(maxSize-maxSize%BlockSize))
	}
	if below == 0 {
		return fmt.Errorf("%d bytes is too small for a volume: the nearest valid size is %d (4KiB)", uint64(s), BlockSize)
	}
	above := below + BlockSize
	if above > maxSize {
		return fmt.Errorf("%d bytes is not a multiple of 4 KiB: the nearest valid size is %d (%s)", uint64(s), uint64(below), below)
	}
	return fmt.Errorf("%d bytes is not a multiple of 4 KiB: the nearest valid sizes are %d (%s) and %d (%s)",
		uint64(s), uint64(below), below, uint64(above), above)
}
