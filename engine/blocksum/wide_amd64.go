package blocksum

import "golang.org/x/sys/cpu"

// wide: the processor has what stripes needs, and the system saves its registers.
var wide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ

// stripes runs eight blocks through the accumulators of XXH64. Only where wide is set.
//
//go:noescape
func stripes(at *[lanes]*byte, acc *[lanes][4]uint64)
