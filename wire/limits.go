package wire

// Version is the protocol version this package speaks. PROTOCOL.md lists what each one changed.
const Version = 1

// BlockSize is the size of a virtual block in bytes; payload is whole blocks.
const BlockSize = 4096

// Limits. A frame beyond any of them is refused before memory is taken for it.
const (
	MaxBody         = 2 << 20                // bytes; every message within its own limits fits
	MaxPayload      = 4 << 20                // bytes of payload in one Updates frame
	MaxUpdateBlocks = MaxPayload / BlockSize // blocks of one Update, and of one Updates frame
	MaxZeroRanges   = 4096                   // ranges in one Zeroes frame
	MaxVolumes      = 4096                   // volumes attached to one connection
	MaxName         = 255                    // bytes of a node's, group's or volume's name
	MaxText         = 4096                   // bytes of a text meant for people
	MaxStatus       = MaxBody - 64           // bytes of a JSON document

	// MaxBlocks bounds virtual block numbers: the size of a volume in bytes is a u64.
	MaxBlocks uint64 = 1 << 52
)
