package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	magic       = "ops_worker record log "
	frameHeader = 8
	// maxRecord keeps a damaged length from asking for gigabytes.
	maxRecord = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errVersion is a file that another version of its owner wrote, or no record
// log at all. Nothing in it was touched.
var errVersion = errors.New("written by another version")

// errInUse is a file that another process has open.
var errInUse = errors.New("in use by another process")

// recordLog keeps records in an append-only file: a header line and then frames
// of length, CRC-32C and payload. A frame that was torn by a crash, and whatever
// stands behind it, is dropped when the file is opened. Libraries were weighed
// first: bbolt maps its file, and a truncated one ends the process with SIGBUS;
// tidwall/wal has no checksums and refuses a torn tail; goleveldb's journal has
// not been released since 2019. It is not safe for concurrent use.
type recordLog struct {
	path   string
	header []byte
	lock   *os.File
	file   *os.File
	size   int64
}

// openLog opens or creates the file for records of this version, and returns the
// records in it and how many bytes of a torn tail it dropped. The directory must
// be there.
func openLog(path string, version int) (log *recordLog, records [][]byte, dropped int64, err error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, 0, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	l := &recordLog{path: path, header: fmt.Appendf(nil, "%s%d\n", magic, version), lock: lock}
	records, dropped, err = l.load()
	if err == nil {
		// Written anew: what is appended next must not stand behind a torn tail.
		err = l.rewrite(records)
	}
	if err != nil {
		l.close()
		return nil, nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return l, records, dropped, nil
}

func (l *recordLog) load() (records [][]byte, dropped int64, err error) {
	content, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(content) == 0) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	rest, ours := bytes.CutPrefix(content, l.header)
	if !ours {
		line, _, _ := bytes.Cut(content[:min(len(content), 64)], []byte("\n"))
		return nil, 0, fmt.Errorf("%w: it starts with %q, not with %q", errVersion, line, bytes.TrimSpace(l.header))
	}
	for len(rest) > 0 {
		if len(rest) < frameHeader {
			break
		}
		length := int64(binary.LittleEndian.Uint32(rest))
		sum := binary.LittleEndian.Uint32(rest[4:])
		if length > maxRecord || length > int64(len(rest)-frameHeader) {
			break
		}
		payload := rest[frameHeader : frameHeader+length]
		if crc32.Checksum(payload, castagnoli) != sum {
			break
		}
		records = append(records, payload)
		rest = rest[frameHeader+length:]
	}
	return records, int64(len(rest)), nil
}

func appendFrame(to, record []byte) []byte {
	to = binary.LittleEndian.AppendUint32(to, uint32(len(record)))
	to = binary.LittleEndian.AppendUint32(to, crc32.Checksum(record, castagnoli))
	return append(to, record...)
}

// append adds a record and returns when the disk has it. A failed append leaves
// the file as it was, as far as the disk allows.
func (l *recordLog) append(record []byte) error {
	if len(record) > maxRecord {
		return fmt.Errorf("record of %d bytes is too long", len(record))
	}
	frame := appendFrame(nil, record)
	_, err := l.file.WriteAt(frame, l.size)
	if err == nil {
		err = unix.Fdatasync(int(l.file.Fd()))
	}
	if err != nil {
		return errors.Join(err, l.file.Truncate(l.size))
	}
	l.size += int64(len(frame))
	return nil
}

// rewrite replaces all records, in one step: a crash leaves the old file or the
// new one.
func (l *recordLog) rewrite(records [][]byte) (err error) {
	content := bytes.Clone(l.header)
	for _, r := range records {
		content = appendFrame(content, r)
	}
	temporary := l.path + ".new"
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, bytes.NewReader(content))
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(temporary, l.path)
	}
	if err != nil {
		return errors.Join(err, file.Close(), os.Remove(temporary))
	}
	// From here on the new file is the one that has the name, whatever comes.
	old := l.file
	l.file, l.size = file, int64(len(content))
	err = syncDirectory(filepath.Dir(l.path))
	if old != nil {
		err = errors.Join(err, old.Close())
	}
	return err
}

// inPlace reports whether the open file is still the one of that name.
func (l *recordLog) inPlace() bool {
	named, err := os.Stat(l.path)
	if err != nil {
		return false
	}
	opened, err := l.file.Stat()
	return err == nil && os.SameFile(named, opened)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// close lets go of the file; its records stay.
func (l *recordLog) close() error {
	var err error
	if l.file != nil {
		err = l.file.Close()
	}
	return errors.Join(err, l.lock.Close())
}
