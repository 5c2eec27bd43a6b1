// Package manager is the replication manager: it forms consistency groups over any number of
// primary and secondary controls, has them linked everywhere or nowhere, and takes
// them back from every control when one of them fails.
//
// [Core] is the state machine of one group. It is plain single-threaded code: events
// in, actions out; no goroutine, clock, socket or file. [Node] drives the cores of all groups over
// real connections, with a decision log ([Log]) and an audit log ([AuditLog]). [Candidate] is a node only while it
// leads several managers with one log ([Election], [Term]); each term is a start in a higher epoch.
//
// # Invariants
//
//   - R1 LINK(n) is sent to nobody before every secondary has reported CG n complete.
//   - R2 RELEASE(n), which lets a secondary reuse what n displaced, is sent to nobody before
//     DECIDED(n) is durable in the decision log.
//   - R3 Before DECIDED(n) is durable a CG only goes backward once anything failed; from
//     the moment its record is handed to the log it only goes forward. If the log cannot say
//     whether the record is durable, the group halts: a restart reads the truth.
//   - R4 Every command carries (epoch, n). Answers with another epoch or another n than
//     the one waited for are ignored. A peer that knows a higher epoch halts the group: another
//     manager leads.
//   - R5 CG n is reported as recovery point only after some secondary reported it final.
//   - R6 Readers see the last final CG while n is being linked. This is the
//     secondary's doing; the manager's part is that it sends RELEASE only after the decision.
//   - A CG number that may have been sent to anybody is never given out again: numbers are
//     reserved durably, in blocks, before their first use. A restart goes on behind the last block.
//   - A THAW(n) is sent only if every primary answered the *same* attempt to hold n. An
//     attempt that was given up is followed by OPEN(n), and n is held again only after
//     every primary answered that: answers arrive in order, so a HELD that belongs to the
//     old attempt cannot be taken for one of the new.
//   - REVERTING visits every secondary, whatever is known of it, and ends only when each one
//     answered. No CG is held, let alone linked, before that.
//
// # States
//
//	STARTING   fence every control, ask every secondary what its links show, consult the log
//	IDLE       CG n is open; waiting for the interval, for every control, or for resume
//	HOLD       HOLD(n) sent, not all primaries are held
//	THAW       all were held: CG n is cut, THAW(n) sent
//	DRAIN      primaries send the rest of n, secondaries make it complete
//	LINK       all complete: LINK(n) sent
//	DECIDED    all linked: the decision is being made durable
//	RELEASE    the decision is durable: RELEASE(n) is repeated until all are final
//	REVERTING  an error before DECIDED, or a start: every secondary is visited
//	HALTED     the manager refuses to go on; the reason is in the status
//
//	STARTING -> RELEASE (decided, not final everywhere) | REVERTING | HALTED
//	IDLE -> HOLD -> THAW -> DRAIN -> LINK -> DECIDED -> RELEASE -> IDLE
//	HOLD -> IDLE (attempt given up, n stays open)
//	IDLE, HOLD, THAW, DRAIN, LINK -> REVERTING -> IDLE
//
// # Members
//
// The controls of a group are those of the configuration, until an operator changes them while the group runs. Then the decision
// log holds the list of members, with a version that grows by one with each change, and it has priority over the
// configuration, as the tunables in it have; status and an alert say where the two differ.
//
// A change is durable before it is answered, and takes effect at a boundary: a moment at which nothing is between its cut and its
// decision, so that a start of a manager with the new list would come to the same. The recovery point stays what it is.
//
//   - A control that was added is *joining* at first: it is fenced, but takes part in nothing, and the group goes on with the others
//     for as long as it is not there. Once it is, the next boundary is used: that it is a member becomes durable; then the open CG is
//     discarded on every secondary, the new one included, whose primaries may have sent it CGs that nobody had it
//     link; and the next CG, which has the changes of the discarded one and the first copies to the new control, is the
//     first with it. No drain timeout applies to that one. Until it is final, the group's recovery point is the one from
//     before, on the secondaries that have it. A CG that is being drained is given up when a control is ready to join, or is removed: it
//     may be waiting for just that one. Its changes are in the next.
//   - No CG is held while a change of the members is on its way to the log: whoever is a member durably when a CG is held takes part in it.
//   - A control that was removed takes part until the next boundary, an open revert included: so a control that is lost for good
//     does not keep its group from going on, once an operator has said so. A secondary keeps what it has, and nobody
//     commands it any more. To come back, it needs a pool that was not in the group.
//   - What a removed control has in common with those that stay, an operator must take apart as well: a primary that still has
//     a copy on a removed secondary cannot drain a CG, and a secondary cannot complete one while it has a volume
//     of a removed primary. Both are said in the status as what the group waits for.
//   - The last primary and the last secondary cannot be removed. Without its log a manager that starts takes the configuration.
//     If that has a control on which no CG was ever final, and others on which one was, it may have joined just then, or have lost its pool: which, only an
//     operator knows. The manager refuses, and says between what there is to choose.
//
// # Vacant secondaries
//
// A secondary is vacant if it waits for no volume of the group: all were deleted there, or set aside. It says so with its state. Nothing that a primary
// sends can make a CG complete on it, and it would hold all others up; so once every primary has drained CG n, it is asked (Query, drained) to complete n as it is,
// and from then on takes part like any other. The other way would have been not to wait for it. But then its CG numbers stay behind, the decision table no
// longer holds (it decides from numbers being equal), and what "behind" means would have to be told apart from a control that lost a decided
// CG. As it is, a vacant secondary shows the same numbers as all others, a volume that joins it finds the group's final CG there, and no rule has an exception.
// No recovery point is lost by it: R1 holds, since a vacant secondary has all that it should of n; a secondary is vacant from a command of an operator on, never because its pool
// is gone (then its final CG is not the group's, and the group waits); and no CG is held while all secondaries are vacant. Status has an alert for each.
//
// # Times
//
// The coordination timeout bounds how long a host's write can wait for a cut: it is the
// timeout a primary is given with HOLD. The manager itself waits only four fifths of it for the
// last HELD, so that a THAW has the remaining fifth to arrive; one that is late all the same
// is answered with Thawed(OK=false), and the CG is abandoned.
//
// Interval 0 is continuous: the next cut follows as soon as the CG before is final. After a CG in which no primary sent a
// block of payload the manager pauses first, for 1 ms, and after each further one in a row twice as long, up to 200 ms.
// The first write after a quiet time is thus cut at most 200 ms later, and from the next CG on there is no pause. (A CG
// with nothing but trims counts as empty.) The limit was chosen by measuring a primary, a secondary and a manager together
// in one process on files, idle: with pauses of at most 1 ms they took 39 % of a core for 420 CGs a second, with 20 ms
// 7.7 %, with 100 ms 2.3 %, with 200 ms 1.1 %; the three were not measured apart.
//
// The time of a cut is the manager's clock when all primaries were held: no write acknowledged
// before it is missing from the CG. RPO is now minus that time for the newest recovery point.
package manager
