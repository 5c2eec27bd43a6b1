//go:build !amd64

package blocksum

var wide = false

func stripes(*[lanes]*byte, *[lanes][4]uint64) { panic("blocksum: not for this processor") }
