package main

import (
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

const (
	wholeMachine       = "/"
	nanosecondsPerTick = 10_000_000 // /proc counts in 1/100 s on every Linux
)

// machine answers what the kubelet asks cAdvisor, with the facts of this machine. Of containers it
// knows the one that is the whole machine: there are no cgroups to ask about others.
type machine struct{ root string }

func (m *machine) Start() error { return nil }

func (m *machine) ContainerInfoV2(name string, _ cadvisorv2.RequestOptions) (map[string]cadvisorv2.ContainerInfo, error) {
	if name != wholeMachine {
		return map[string]cadvisorv2.ContainerInfo{}, nil
	}
	total, available, err := memoryBytes()
	if err != nil {
		return nil, err
	}
	busy, err := busyNanoseconds()
	if err != nil {
		return nil, err
	}
	used := total - available
	info := cadvisorv2.ContainerInfo{
		Spec: cadvisorv2.ContainerSpec{
			HasCpu: true, HasMemory: true, Memory: cadvisorv2.MemorySpec{Limit: total},
		},
		Stats: []*cadvisorv2.ContainerStats{{
			Timestamp: time.Now(),
			Cpu:       &cadvisor.CpuStats{Usage: cadvisor.CpuUsage{Total: busy}},
			Memory:    &cadvisor.MemoryStats{Usage: used, WorkingSet: used},
		}},
	}
	return map[string]cadvisorv2.ContainerInfo{name: info}, nil
}

func (m *machine) GetRequestedContainersInfo(string, cadvisorv2.RequestOptions) (map[string]*cadvisor.ContainerInfo, error) {
	return map[string]*cadvisor.ContainerInfo{}, nil
}

func (m *machine) MachineInfo() (*cadvisor.MachineInfo, error) {
	memory, _, err := memoryBytes()
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

// memoryBytes returns how much memory the machine has, and how much of it is available.
func memoryBytes() (total, available uint64, err error) {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/meminfo: %q: %w", line, err)
		}
		switch fields[0] {
		case "MemTotal:":
			total = kib * 1024
		case "MemAvailable:":
			return total, kib * 1024, nil // it comes after MemTotal
		}
	}
	return 0, 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
}

// busyNanoseconds returns the processor time spent since the start: everything but idle and iowait.
func busyNanoseconds() (uint64, error) {
	fields := strings.Fields(firstLine("/proc/stat"))
	if len(fields) < 9 {
		return 0, fmt.Errorf("/proc/stat does not begin with the sum of all processors")
	}
	const idle, iowait, beforeGuests = 4, 5, 9
	var ticks uint64
	for i, field := range fields[:beforeGuests] {
		if i == 0 || i == idle || i == iowait {
			continue
		}
		value, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += value
	}
	return ticks * nanosecondsPerTick, nil
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
