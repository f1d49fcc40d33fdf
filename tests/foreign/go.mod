module knhk.dev/foreign

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2 // indirect
	sigs.k8s.io/gateway-api v1.6.3 // indirect
)
