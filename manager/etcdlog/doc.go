// Package etcdlog keeps the decision log of several managers in etcd, and elects the one of them that leads.
//
// [Cluster] is a [manager.Election]: Campaign takes part in the election of etcd's concurrency package, under a lease
// that a live manager renews. The [Term] it returns is a [manager.Log] that can be written as long as this manager
// leads.
//
// # Invariants
//
//   - Every write is a transaction that holds only if the key of this manager's leadership still exists with the
//     revision at which it was made. etcd removes that key with the lease, before another manager can lead: what an
//     old leader writes after that is refused with [manager.ErrNotLeader], however late it arrives.
//   - Every write names the write of its group before it, and holds only on top of that. A write that was given up as
//     lost and repeated takes effect once, and cannot overtake a later one.
//   - A write that got no answer is repeated until etcd takes it or the term ends. Nobody is told that it failed
//     while it may still succeed.
//   - A term ends when the lease was not renewed for its whole length, by this manager's clock, or when a
//     write was refused. It never begins again: the manager stands for election anew, and gets a higher epoch.
//   - The epoch that a term gives a group is higher than every one before: at least the revision at which the
//     leadership was won, at least one more than the one that the log holds, and not below the floor that the caller
//     gives. The floor keeps epochs growing when the log before was another one (a bbolt file, or an etcd whose data
//     was lost).
//   - Passwords are in no error, status or log line.
//
// # Keys
//
// Under the prefix (default "farside"), a key for each item; the values are text:
//
//	PREFIX/leader/LEASE            name and address of a manager that leads or wants to (JSON); the oldest leads
//	PREFIX/group/NAME/epoch        decimal
//	PREFIX/group/NAME/reserved     decimal, highest CG number that may be in use
//	PREFIX/group/NAME/settings     JSON
//	PREFIX/group/NAME/paused       "true", "false"
//	PREFIX/group/NAME/written      REVISION.COUNT: the leadership's revision, and which of its writes was the last
//	PREFIX/group/NAME/decided/CG   one DECIDED record (JSON); CG has 16 hexadecimal digits
//
// Managers with other groups need a prefix of their own: there is one election for each prefix.
//
// etcd keeps every old version of a key until it is compacted. A server for this log needs automatic compaction
// (--auto-compaction-retention), or its database fills up and nothing is decided any more.
package etcdlog
