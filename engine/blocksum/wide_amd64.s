#include "textflag.h"

// What the accumulators start with, for seed 0: prime1+prime2, prime2, 0, -prime1; for two blocks.
DATA start<>+0(SB)/8, $0x60EA27EEADC0B5D6
DATA start<>+8(SB)/8, $0xC2B2AE3D27D4EB4F
DATA start<>+16(SB)/8, $0
DATA start<>+24(SB)/8, $0x61C8864E7A143579
DATA start<>+32(SB)/8, $0x60EA27EEADC0B5D6
DATA start<>+40(SB)/8, $0xC2B2AE3D27D4EB4F
DATA start<>+48(SB)/8, $0
DATA start<>+56(SB)/8, $0x61C8864E7A143579
GLOBL start<>(SB), RODATA|NOPTR, $64

// Each of Z0 to Z3 holds the accumulators of two blocks. A stripe is 32 bytes.
#define STRIPE(a, b, in, inlow, acc) \
	VMOVDQU64 (a)(CX*1), inlow             \
	VINSERTI64X4 $1, (b)(CX*1), in, in     \
	VPMULLQ Z8, in, in                     \
	VPADDQ in, acc, acc                    \
	VPROLQ $31, acc, acc                   \
	VPMULLQ Z9, acc, acc

// func stripes(at *[8]*byte, acc *[8][4]uint64)
TEXT ·stripes(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), AX
	MOVQ acc+8(FP), R12
	MOVQ 8(AX), BX
	MOVQ 16(AX), DX
	MOVQ 24(AX), SI
	MOVQ 32(AX), DI
	MOVQ 40(AX), R8
	MOVQ 48(AX), R9
	MOVQ 56(AX), R10
	MOVQ 0(AX), AX
	VMOVDQU64 start<>(SB), Z0
	VMOVDQA64 Z0, Z1
	VMOVDQA64 Z0, Z2
	VMOVDQA64 Z0, Z3
	MOVQ $0xC2B2AE3D27D4EB4F, CX
	VPBROADCASTQ CX, Z8
	MOVQ $0x9E3779B185EBCA87, CX
	VPBROADCASTQ CX, Z9
	XORQ CX, CX

stripe:
	STRIPE(AX, BX, Z4, Y4, Z0)
	STRIPE(DX, SI, Z5, Y5, Z1)
	STRIPE(DI, R8, Z6, Y6, Z2)
	STRIPE(R9, R10, Z7, Y7, Z3)
	ADDQ $32, CX
	CMPQ CX, $4096
	JNE  stripe

	VMOVDQU64 Z0, (R12)
	VMOVDQU64 Z1, 64(R12)
	VMOVDQU64 Z2, 128(R12)
	VMOVDQU64 Z3, 192(R12)
	VZEROUPPER
	RET
