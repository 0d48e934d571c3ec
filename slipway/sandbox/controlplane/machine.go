package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	cadvisor "github.com/google/cadvisor/info/v1"
	cadvisorv2 "github.com/google/cadvisor/info/v2"
)

// machine answers what the kubelet asks cAdvisor, with the facts of this machine; it knows no
// containers, because there are none.
type machine struct{ root string }

func (m *machine) Start() error { return nil }

func (m *machine) ContainerInfoV2(string, cadvisorv2.RequestOptions) (map[string]cadvisorv2.ContainerInfo, error) {
	return map[string]cadvisorv2.ContainerInfo{}, nil
}

func (m *machine) GetRequestedContainersInfo(string, cadvisorv2.RequestOptions) (map[string]*cadvisor.ContainerInfo, error) {
	return map[string]*cadvisor.ContainerInfo{}, nil
}

func (m *machine) MachineInfo() (*cadvisor.MachineInfo, error) {
	memory, err := memoryBytes()
	if err != nil {
		return nil, err
	}
	return &cadvisor.MachineInfo{
		Timestamp:      time.Now(),
		NumCores:       runtime.NumCPU(),
		MemoryCapacity: memory,
		MachineID:      firstLine("/etc/machine-id"),
		SystemUUID:     firstLine("/etc/machine-id"),
		BootID:         firstLine("/proc/sys/kernel/random/boot_id"),
	}, nil
}

func (m *machine) VersionInfo() (*cadvisor.VersionInfo, error) {
	return &cadvisor.VersionInfo{
		KernelVersion:      firstLine("/proc/sys/kernel/osrelease"),
		ContainerOsVersion: systemName(),
	}, nil
}

func (m *machine) ImagesFsInfo(context.Context) (cadvisorv2.FsInfo, error) { return diskOf(m.root) }

func (m *machine) ContainerFsInfo(context.Context) (cadvisorv2.FsInfo, error) { return diskOf(m.root) }

func (m *machine) RootFsInfo() (cadvisorv2.FsInfo, error) { return diskOf(m.root) }

func (m *machine) GetDirFsInfo(path string) (cadvisorv2.FsInfo, error) { return diskOf(path) }

func diskOf(path string) (cadvisorv2.FsInfo, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return cadvisorv2.FsInfo{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	block := uint64(s.Bsize)
	inodes, free := s.Files, s.Ffree
	return cadvisorv2.FsInfo{
		Timestamp:  time.Now(),
		Device:     path,
		Mountpoint: path,
		Capacity:   s.Blocks * block,
		Available:  s.Bavail * block,
		Usage:      (s.Blocks - s.Bfree) * block,
		Inodes:     &inodes,
		InodesFree: &free,
	}, nil
}

func memoryBytes() (uint64, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "MemTotal:"); found {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no MemTotal in /proc/meminfo")
}

func firstLine(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return line
}

func systemName() string {
	content, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(content)) {
		if value, found := strings.CutPrefix(line, "PRETTY_NAME="); found {
			return strings.Trim(value, "\"\n")
		}
	}
	return "Linux"
}
