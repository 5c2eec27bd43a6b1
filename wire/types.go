package wire

import "fmt"

// roles is a set of Role.
type roles uint8

func (r Role) set() roles { return 1 << r }

// has says whether r is in the set.
func (s roles) has(r Role) bool { return r <= RoleTool && s&r.set() != 0 }

var (
	isP   = RolePrimary.set()
	isS   = RoleSecondary.set()
	isM   = RoleManager.set()
	isT   = RoleTool.set()
	isAny = isP | isS | isM | isT
)

// types says of each message type its name, who may send it to whom, and how to make one.
var types = [...]struct {
	name     string
	from, to roles
	make     func() Message // nil: Updates, which has no struct
}{
	TypeHello:       {"Hello", isAny, isAny, make1[Hello]},
	TypeAttach:      {"Attach", isP, isS, make1[Attach]},
	TypeAttached:    {"Attached", isS, isP, make1[Attached]},
	TypeUpdates:     {"Updates", isP, isS, nil},
	TypeZeroes:      {"Zeroes", isP, isS, make1[ZeroRanges]},
	TypeManifest:    {"Manifest", isP, isS, make1[Manifest]},
	TypeCredit:      {"Credit", isS, isP, make1[Credit]},
	TypeOpen:        {"Open", isM, isP, make1[Open]},
	TypeOpened:      {"Opened", isP, isM, make1[Opened]},
	TypeHold:        {"Hold", isM, isP, make1[Hold]},
	TypeHeld:        {"Held", isP, isM, make1[Held]},
	TypeThaw:        {"Thaw", isM, isP, make1[Thaw]},
	TypeThawed:      {"Thawed", isP, isM, make1[Thawed]},
	TypeDrained:     {"Drained", isP, isM, make1[Drained]},
	TypeFinalNote:   {"FinalNote", isM, isP, make1[FinalNote]},
	TypeFence:       {"Fence", isM, isP | isS, make1[Fence]},
	TypeQuery:       {"Query", isM, isS, make1[Query]},
	TypeState:       {"State", isS, isM, make1[State]},
	TypeComplete:    {"Complete", isS, isM, make1[Complete]},
	TypeLink:        {"Link", isM, isS, make1[Link]},
	TypeLinked:      {"Linked", isS, isM, make1[Linked]},
	TypeRelease:     {"Release", isM, isS, make1[Release]},
	TypeFinal:       {"Final", isS, isM, make1[Final]},
	TypeRevert:      {"Revert", isM, isS, make1[Revert]},
	TypeReverted:    {"Reverted", isS, isM, make1[Reverted]},
	TypeLost:        {"Lost", isP | isS, isM, make1[Lost]},
	TypeStatus:      {"Status", isT | isM, isP | isS | isM, make1[Status]},
	TypeStatusReply: {"StatusReply", isP | isS | isM, isT | isM, make1[StatusReply]},
	TypePing:        {"Ping", isAny, isAny, make1[Ping]},
	TypePong:        {"Pong", isAny, isAny, make1[Pong]},
	TypeError:       {"Error", isAny, isAny, make1[Error]},
	TypeVolume:      {"Volume", isT, isS, make1[Volume]},
	TypeGroupChange: {"GroupChange", isT, isM, make1[GroupChange]},
	TypeReload:      {"Reload", isT, isP, make1[Reload]},
}

func make1[M any, P interface {
	*M
	Message
}]() Message {
	return P(new(M))
}

func (t Type) known() bool { return t != 0 && int(t) < len(types) }

func (t Type) String() string {
	if !t.known() {
		return fmt.Sprintf("type %d", uint8(t))
	}
	return types[t].name
}

func (r Role) String() string {
	names := [...]string{RolePrimary: "primary", RoleSecondary: "secondary", RoleManager: "manager", RoleTool: "tool"}
	if r == 0 || int(r) >= len(names) {
		return fmt.Sprintf("role %d", uint8(r))
	}
	return names[r]
}

func (a VolumeAction) String() string {
	names := [...]string{VolumeMake: "make", VolumeDelete: "delete", VolumeSetAside: "set-aside", VolumeRejoin: "rejoin"}
	if a == 0 || int(a) >= len(names) {
		return fmt.Sprintf("volume action %d", uint8(a))
	}
	return names[a]
}

func (a GroupAction) String() string {
	names := [...]string{GroupPause: "pause", GroupResume: "resume", GroupSet: "set", GroupAdd: "add-control", GroupRemove: "remove-control"}
	if a == 0 || int(a) >= len(names) {
		return fmt.Sprintf("group action %d", uint8(a))
	}
	return names[a]
}

// Allowed says whether a peer of role from may send a message of type t to one of role to.
func Allowed(t Type, from, to Role) bool {
	return t.known() && types[t].from.has(from) && types[t].to.has(to)
}

// mayDial says whether role from has anything to say to a listener of role to.
func mayDial(from, to Role) bool {
	switch from {
	case RoleManager:
		return to == RolePrimary || to == RoleSecondary
	case RolePrimary:
		return to == RoleSecondary
	case RoleTool:
		return to != RoleTool
	}
	return false
}

func (*Hello) Type() Type       { return TypeHello }
func (*Attach) Type() Type      { return TypeAttach }
func (*Attached) Type() Type    { return TypeAttached }
func (*ZeroRanges) Type() Type  { return TypeZeroes }
func (*Manifest) Type() Type    { return TypeManifest }
func (*Credit) Type() Type      { return TypeCredit }
func (*Open) Type() Type        { return TypeOpen }
func (*Opened) Type() Type      { return TypeOpened }
func (*Hold) Type() Type        { return TypeHold }
func (*Held) Type() Type        { return TypeHeld }
func (*Thaw) Type() Type        { return TypeThaw }
func (*Thawed) Type() Type      { return TypeThawed }
func (*Drained) Type() Type     { return TypeDrained }
func (*FinalNote) Type() Type   { return TypeFinalNote }
func (*Fence) Type() Type       { return TypeFence }
func (*Query) Type() Type       { return TypeQuery }
func (*State) Type() Type       { return TypeState }
func (*Complete) Type() Type    { return TypeComplete }
func (*Link) Type() Type        { return TypeLink }
func (*Linked) Type() Type      { return TypeLinked }
func (*Release) Type() Type     { return TypeRelease }
func (*Final) Type() Type       { return TypeFinal }
func (*Revert) Type() Type      { return TypeRevert }
func (*Reverted) Type() Type    { return TypeReverted }
func (*Lost) Type() Type        { return TypeLost }
func (*Status) Type() Type      { return TypeStatus }
func (*StatusReply) Type() Type { return TypeStatusReply }
func (*Ping) Type() Type        { return TypePing }
func (*Pong) Type() Type        { return TypePong }
func (*Error) Type() Type       { return TypeError }
func (*Volume) Type() Type      { return TypeVolume }
func (*GroupChange) Type() Type { return TypeGroupChange }
func (*Reload) Type() Type      { return TypeReload }
