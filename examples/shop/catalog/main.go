// The catalog: which products there are. By gRPC (catalog.proto) on GRPC_PORT, and as JSON on PORT, for people.
package main

import (
	"cmp"
	"context"
	"log"
	"net"
	"net/http"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
)

var products = list(
	map[string]any{"id": "rope", "name": "Mooring rope, 20 m", "price": "24.00"},
	map[string]any{"id": "lamp", "name": "Signal lamp", "price": "61.50"},
	map[string]any{"id": "chart", "name": "Harbour chart", "price": "12.90"},
)

func list(all ...any) *structpb.ListValue {
	l, err := structpb.NewList(all)
	if err != nil {
		log.Fatal(err)
	}
	return l
}

type catalog interface {
	list(context.Context) (*structpb.ListValue, error)
}

type server struct{}

func (server) list(context.Context) (*structpb.ListValue, error) { return products, nil }

var service = grpc.ServiceDesc{
	ServiceName: "shop.Catalog",
	HandlerType: (*catalog)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "List", Handler: func(s any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if err := decode(new(emptypb.Empty)); err != nil {
			return nil, err
		}
		return s.(catalog).list(ctx)
	}}},
}

func main() {
	listener, err := net.Listen("tcp", ":"+cmp.Or(os.Getenv("GRPC_PORT"), "9000"))
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		s := grpc.NewServer()
		s.RegisterService(&service, server{})
		log.Fatal(s.Serve(listener))
	}()
	http.HandleFunc("GET /products", func(w http.ResponseWriter, r *http.Request) {
		body, err := protojson.Marshal(products)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("content-type", "application/json")
		w.Write(body)
	})
	log.Fatal(http.ListenAndServe(":"+cmp.Or(os.Getenv("PORT"), "9001"), nil))
}
