package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	tenYears   = 10 * 365 * 24 * time.Hour
	serialBits = 120
)

// newPKICommand writes the keys that the parts of one sandbox trust one another by. Every file that
// exists is kept: clients remember them. Nothing outside the sandbox trusts its authority.
func newPKICommand() *cobra.Command {
	var folder string
	var serving, clients []string
	command := &cobra.Command{
		Use:   "pki",
		Short: "write the certificate authority and certificates of one sandbox, keeping what exists",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return writePKI(folder, serving, clients)
		},
	}
	command.Flags().StringVar(&folder, "dir", "", "folder of the files")
	command.Flags().StringArrayVar(&serving, "serving", nil, "NAME=HOST,HOST…: a serving certificate")
	command.Flags().StringArrayVar(&clients, "client", nil, "NAME: a client certificate of that common name")
	if err := command.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is defined above
	}
	return command
}

func writePKI(folder string, serving, clients []string) error {
	signer, err := keyAt(filepath.Join(folder, "ca.key"))
	if err != nil {
		return err
	}
	authority := template("slipway-sandbox")
	authority.IsCA, authority.BasicConstraintsValid = true, true
	authority.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	ca, err := certificateAt(filepath.Join(folder, "ca.crt"), authority, authority, signer.Public(), signer)
	if err != nil {
		return err
	}
	for _, request := range serving {
		name, hosts, found := strings.Cut(request, "=")
		if !found {
			return fmt.Errorf("--serving %q: want NAME=HOST,HOST", request)
		}
		leaf := template(name)
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		for _, host := range strings.Split(hosts, ",") {
			if ip := net.ParseIP(host); ip != nil {
				leaf.IPAddresses = append(leaf.IPAddresses, ip)
			} else {
				leaf.DNSNames = append(leaf.DNSNames, host)
			}
		}
		if err := issue(folder, name, leaf, ca, signer); err != nil {
			return err
		}
	}
	for _, name := range clients {
		leaf := template(name)
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if err := issue(folder, name, leaf, ca, signer); err != nil {
			return err
		}
	}
	return writeServiceAccountKey(folder)
}

func issue(folder, name string, leaf, ca *x509.Certificate, signer crypto.Signer) error {
	key, err := keyAt(filepath.Join(folder, name+".key"))
	if err != nil {
		return err
	}
	_, err = certificateAt(filepath.Join(folder, name+".crt"), leaf, ca, key.Public(), signer)
	return err
}

func writeServiceAccountKey(folder string) error {
	key, err := keyAt(filepath.Join(folder, "service-account.key"))
	if err != nil {
		return err
	}
	content, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(folder, "service-account.pub"), "PUBLIC KEY", content)
}

func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		panic(err) // the system has no randomness
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(tenYears),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func keyAt(path string) (crypto.Signer, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		content, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, writePEM(path, "EC PRIVATE KEY", content)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM key: delete it to make a new one", path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func certificateAt(path string, leaf, ca *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key, signer)
		if err != nil {
			return nil, err
		}
		if err := writePEM(path, "CERTIFICATE", der); err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM certificate: delete it to make a new one", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

// writePEM leaves a whole file or none, readable by its owner only.
func writePEM(path, kind string, content []byte) error {
	draft := path + ".draft"
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
	if err := os.WriteFile(draft, text, 0o600); err != nil {
		return err
	}
	return os.Rename(draft, path)
}
