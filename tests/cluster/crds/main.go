// Command crds reads manifests from standard input and holds those of cert-manager's and the Prometheus operator's kinds
// against these projects' own types: a field that isn't theirs, or of another type, is an error. It prints how many there were.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func kind(name string) any {
	switch name {
	case "cert-manager.io/v1 Certificate":
		return &certmanager.Certificate{}
	case "cert-manager.io/v1 Issuer":
		return &certmanager.Issuer{}
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return &monitoring.ServiceMonitor{}
	case "monitoring.coreos.com/v1 PrometheusRule":
		return &monitoring.PrometheusRule{}
	}
	return nil
}

func main() {
	documents := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for checked := 0; ; {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			fmt.Println(checked)
			return
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err == nil {
			err = strict.Unmarshal(text, &head)
		}
		if object := kind(head.APIVersion + " " + head.Kind); err == nil && object != nil {
			err = strict.UnmarshalStrict(text, object)
			checked++
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s %s: %v\n", head.APIVersion, head.Kind, err)
			os.Exit(1)
		}
	}
}
