// Package plant names the faults that tests of the simulator plant into the product, to see that it notices
// each of them.
//
// Without the build tag "plant" [On] is a constant false: the compiler removes every planted fault, and the
// product holds none. With the tag the simulator's tests switch on one at a time. The package imports
// nothing, so that whatever it is planted into stays embeddable.
package plant

// Fault is one planted fault.
type Fault uint8

const (
	None Fault = iota
	// FlushBeforeComplete: a CG is called complete before its data and its tables are flushed.
	FlushBeforeComplete
	// FlushBeforeLinked: LINKED is answered before its record is flushed.
	FlushBeforeLinked
	// LinkBeforeComplete: LINK is sent as soon as one secondary is complete (rule R1).
	LinkBeforeComplete
	// ReleaseAtLink: the blocks that a CG displaces are given back when it is linked (rule R2).
	ReleaseAtLink
	// ReuseBeforeFinal: they are given back at RELEASE, before the FINAL record is durable.
	ReuseBeforeFinal
	// ReaderIgnored: what was unlinked is given back although a reader holds an old view.
	ReaderIgnored
	// ManifestCountOnly: a manifest's counts are compared, its digest is not.
	ManifestCountOnly
	// LowerEpoch: a command of a lower epoch is obeyed (rule R4).
	LowerEpoch
	// RevertSkipsLate: a revert ends without the controls that answer late.
	RevertSkipsLate
	// DecidedNotDurable: RELEASE is sent before the decision is durable (rule R2).
	DecidedNotDurable
	// CheckpointNewerSlot: a checkpoint overwrites the slot that the newest root names.
	CheckpointNewerSlot
	// TailEarly: the journal's tail passes a record that a restart still needs.
	TailEarly
	// PageUnchecked: the checksum of a table page is not verified.
	PageUnchecked
	// WriteAfterHeld: a write that begins after HELD(n) is still tagged n.
	WriteAfterHeld
	// CollisionIgnored: a write overwrites a block that a cut CG still has to send.
	CollisionIgnored
	// FlushAtOpen: what recovery relies on from now on is not flushed first.
	FlushAtOpen
	// IntentUnflushed: regions of the write-intent log are cleared though the local device was not flushed first.
	IntentUnflushed
	// BlockUnchecked: the checksum of a data block that is read is not compared.
	BlockUnchecked
	// ChangesForgotten: what an abandoned CG had changed does not become part of the next one.
	ChangesForgotten
	// MembersNotDurable: a control that joins takes part before the log has it (rule "Members").
	MembersNotDurable
	// JoinedUnheard: a CG is decided before a control that has just joined has linked it.
	JoinedUnheard
	// WholeEarly: a volume counts as whole although the CG has a part of its first copy only.
	WholeEarly
	// AwaitedMissing: a CG becomes complete without a volume that its group waits for.
	AwaitedMissing
	// AsideAttached: a volume that was set aside is attached to, and awaited, without having rejoined.
	AsideAttached
	// RejoinedWhole: a volume that rejoins stays whole.
	RejoinedWhole
	// MemberUnflushed: a volume's standing is answered before its record is flushed.
	MemberUnflushed
	// PartForgotten: what a CG brought of a first copy is not brought again when the CG is given up.
	PartForgotten
	// PointEarly: a recovery point is announced before all volumes are whole (rule R5).
	PointEarly
	// End is behind the last fault.
	End
)

var names = [...]string{
	None: "none", FlushBeforeComplete: "flush before COMPLETE left out", FlushBeforeLinked: "flush before LINKED left out",
	LinkBeforeComplete: "LINK before all COMPLETE", ReleaseAtLink: "displaced blocks released at LINK",
	ReuseBeforeFinal: "displaced blocks released before FINAL is durable", ReaderIgnored: "blocks reused while a reader holds an old view",
	ManifestCountOnly: "manifest's digest not compared", LowerEpoch: "a lower epoch accepted",
	RevertSkipsLate: "revert skips controls that answer late", DecidedNotDurable: "DECIDED not made durable",
	CheckpointNewerSlot: "checkpoint overwrites the newer slot", TailEarly: "journal tail reclaimed a record early",
	PageUnchecked: "checksum of a table page not verified", WriteAfterHeld: "write of n+1 tagged n after HELD",
	CollisionIgnored: "collision ignored in catch-up", FlushAtOpen: "flush at open left out",
	IntentUnflushed: "regions cleared without flushing the device",
	BlockUnchecked:  "checksum of a data block not compared", ChangesForgotten: "changes of an abandoned CG forgotten",
	MembersNotDurable: "members not durable before they take part", JoinedUnheard: "CG decided before a joined control linked it",
	WholeEarly: "volume called whole with a part of its first copy", AwaitedMissing: "CG complete without an awaited volume",
	AsideAttached: "volume attached to although it was set aside",
	RejoinedWhole: "volume that rejoins stays whole", MemberUnflushed: "flush after a volume's standing left out",
	PartForgotten: "part of a first copy forgotten with its CG", PointEarly: "recovery point before all volumes are whole",
}

func (f Fault) String() string { return names[f] }
