package nbd

// Numbers of the NBD protocol, all big-endian on the wire. Section names refer to
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.

// "Newstyle negotiation".
const (
	magicInit        uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      uint64 = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply uint64 = 0x3e889045565a9

	flagFixedNewstyle uint16 = 1 << 0
	flagNoZeroes      uint16 = 1 << 1

	exportNamePadding = 124 // zeros after NBD_OPT_EXPORT_NAME's answer, unless flagNoZeroes
)

// "Option types".
const (
	optExportName      uint32 = 1
	optAbort           uint32 = 2
	optList            uint32 = 3
	optStartTLS        uint32 = 5
	optInfo            uint32 = 6
	optGo              uint32 = 7
	optStructuredReply uint32 = 8
	optListMetaContext uint32 = 9
	optSetMetaContext  uint32 = 10
)

// "Option reply types".
const (
	repAck         uint32 = 1
	repServer      uint32 = 2
	repInfo        uint32 = 3
	repMetaContext uint32 = 4

	repError       uint32 = 1 << 31
	repErrUnsup           = repError | 1
	repErrPolicy          = repError | 2
	repErrInvalid         = repError | 3
	repErrTLSReqd         = repError | 5
	repErrUnknown         = repError | 6
	repErrShutdown        = repError | 7
	repErrTooBig          = repError | 9
)

// "Information types" of NBD_OPT_INFO and NBD_OPT_GO.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// "Transmission flags".
const (
	flagHasFlags        uint16 = 1 << 0
	flagReadOnly        uint16 = 1 << 1
	flagSendFlush       uint16 = 1 << 2
	flagSendFUA         uint16 = 1 << 3
	flagRotational      uint16 = 1 << 4
	flagSendTrim        uint16 = 1 << 5
	flagSendWriteZeroes uint16 = 1 << 6
	flagSendDF          uint16 = 1 << 7
	flagCanMultiConn    uint16 = 1 << 8
	flagSendFastZero    uint16 = 1 << 11
)

// "Transmission phase".
const (
	magicRequest         uint32 = 0x25609513
	magicSimpleReply     uint32 = 0x67446698
	magicStructuredReply uint32 = 0x668e33ef

	requestHeaderSize = 28 // magic 4, flags 2, command 2, cookie 8, offset 8, length 4
)

// "Request types".
const (
	wireRead        uint16 = 0
	wireWrite       uint16 = 1
	wireDisconnect  uint16 = 2
	wireFlush       uint16 = 3
	wireTrim        uint16 = 4
	wireWriteZeroes uint16 = 6
	wireBlockStatus uint16 = 7
)

// "Command flags".
const (
	cmdFlagFUA      uint16 = 1 << 0
	cmdFlagNoHole   uint16 = 1 << 1
	cmdFlagDF       uint16 = 1 << 2
	cmdFlagReqOne   uint16 = 1 << 3
	cmdFlagFastZero uint16 = 1 << 4
)

// "Structured reply flags" and "Structured reply types".
const (
	chunkDone uint16 = 1 << 0

	chunkNone        uint16 = 0
	chunkOffsetData  uint16 = 1
	chunkOffsetHole  uint16 = 2
	chunkBlockStatus uint16 = 5
	chunkError       uint16 = 1<<15 | 1
)

// "base:allocation" metadata context.
const (
	contextAllocation          = "base:allocation"
	contextAllocationID uint32 = 1 // our choice; the client learns it in negotiation

	stateHole uint32 = 1 << 0
	stateZero uint32 = 1 << 1
)

// "Error values".
const (
	nbdEPERM     uint32 = 1
	nbdEIO       uint32 = 5
	nbdENOMEM    uint32 = 12
	nbdEINVAL    uint32 = 22
	nbdENOSPC    uint32 = 28
	nbdEOVERFLOW uint32 = 75
	nbdENOTSUP   uint32 = 95
	nbdESHUTDOWN uint32 = 108
)
