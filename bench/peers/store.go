package main

import "context"

const (
	blockSize = 4096
	// sampleEvery: of every so many blocks one is read back at the end.
	sampleEvery = 1021
)

// store takes the updates of one secondary control. One goroutine uses it.
type store interface {
	// put makes data (one block, which stays as it is until close) the contents of a block.
	put(block uint64, data []byte) error
	// commit makes everything put so far durable, and whole or absent after a crash if the store can do that.
	commit() error
	// get reads a block as of the last commit.
	get(block uint64, into []byte) error
	close() error
}

// receiver is a store into whose memory payload can be received: no copy.
type receiver interface {
	// space is where the next block is received. It holds bytes that were received there before.
	space() ([]byte, error)
	// take makes what stands in space the contents of a block.
	take(block uint64) error
}

// peer is a kind of store.
type peer struct {
	name string
	// what it does, and what it does not promise.
	what string
	// goal is how many times faster farside shall be; 0: there is no goal.
	goal float64
	// fs is the filesystem that the device gets; "": the store has the device for itself.
	fs string
	// needs are programs, with the Debian package that holds them.
	needs map[string]string
	open  func(ctx context.Context, at place) (store, error)
}

// place is where a store lives.
type place struct {
	device string // the device itself
	dir    string // where its filesystem is mounted, if the peer wants one
	blocks uint64 // of all volumes together
	group  int    // updates of a consistency group
}

// volumes share the blocks evenly.
const volumes = 4

var peers = []peer{
	{name: "journal-then-copy", goal: 2, open: openJournal,
		what: "the classic secondary: updates go to a journal, sequentially; the journal is flushed; then the blocks are copied home, sorted, from memory, while the next group arrives"},
	{name: "pebble", goal: 10, fs: "ext4", needs: ext4Tools, open: openPebble,
		what: "Pebble v2, one batch for each group, written ahead and synced; no compression; 256 MiB of memtables"},
	{name: "bbolt", goal: 10, fs: "ext4", needs: ext4Tools, open: openBolt,
		what: "bbolt, one transaction for each group, put in the order of keys"},
	{name: "badger", fs: "ext4", needs: ext4Tools, open: openBadger,
		what: "badger v4, a write batch and a sync for each group; values in its value log; no compression. Its transactions hold a few thousand blocks at most: a group is NOT whole after a crash"},
	{name: "btrfs", goal: 20, fs: "btrfs", needs: map[string]string{"mkfs.btrfs": "btrfs-progs", "btrfs": "btrfs-progs"}, open: openBtrfs,
		what: "a file for each volume in a btrfs subvolume, and a read-only snapshot of it for each group; the two newest are kept"},
	{name: "qcow2", fs: "ext4", needs: map[string]string{"mkfs.ext4": "e2fsprogs", "qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils"}, open: openQcow2,
		what: "a qcow2 image for each volume behind qemu-nbd, 16 writes in flight each, and a flush for each group. A group is NOT whole after a crash"},
}

var ext4Tools = map[string]string{"mkfs.ext4": "e2fsprogs"}
