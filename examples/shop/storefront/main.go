// The storefront: a page of products. The products come from the catalog by gRPC, what is in stock and what people say
// by HTTP. What does not answer is said on the page; the rest is shown.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
)

//go:embed page.html
var source string
var page = template.Must(template.New("page").Parse(source))

const patience = 3 * time.Second

type product struct {
	ID, Name, Price string
	Stock           string
	Reviews         []review
}

type review struct {
	Author string `json:"author"`
	Text   string `json:"text"`
	Stars  int    `json:"stars"` // reviews v2 has them
}

func (r review) Rating() string { return "★★★★★"[:3*min(max(r.Stars, 0), 5)] }

type shop struct {
	catalog        *grpc.ClientConn
	reviews, stock string
	client         http.Client
}

type shown struct {
	Products []product
	Version  string // of the reviews
	Missing  []string
}

func (s *shop) products(ctx context.Context) (all []product, err error) {
	list := new(structpb.ListValue)
	if err := s.catalog.Invoke(ctx, "/shop.Catalog/List", new(emptypb.Empty), list); err != nil {
		return nil, err
	}
	for _, v := range list.Values {
		f := v.GetStructValue().GetFields()
		all = append(all, product{ID: f["id"].GetStringValue(), Name: f["name"].GetStringValue(), Price: f["price"].GetStringValue()})
	}
	return all, nil
}

func (s *shop) get(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	var show shown
	missing := func(what string, err error) {
		log.Printf("%s: %v", what, err)
		show.Missing = append(show.Missing, what)
	}
	var err error
	if show.Products, err = s.products(ctx); err != nil {
		missing("The catalog is not available right now.", err)
	}
	var said struct {
		Version string              `json:"version"`
		Reviews map[string][]review `json:"reviews"`
	}
	if err := s.get(ctx, s.reviews+"/reviews", &said); err != nil {
		missing("Reviews are not available right now.", err)
	}
	show.Version = said.Version
	stock := map[string]int{}
	if err := s.get(ctx, s.stock+"/stock", &stock); err != nil {
		missing("Stock is not known right now.", err)
	}
	for i := range show.Products {
		p := &show.Products[i]
		p.Reviews = said.Reviews[p.ID]
		if n, known := stock[p.ID]; known {
			p.Stock = fmt.Sprintf("%d in stock", n)
		}
	}
	w.Header().Set("content-type", "text/html; charset=utf-8")
	if err := page.Execute(w, show); err != nil {
		log.Print(err)
	}
}

func main() {
	catalog, err := grpc.NewClient("dns:///"+cmp.Or(os.Getenv("CATALOG"), "catalog:9000"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	s := &shop{
		catalog: catalog,
		reviews: cmp.Or(os.Getenv("REVIEWS"), "http://reviews:9080"),
		stock:   cmp.Or(os.Getenv("STOCK"), "http://stock:9090"),
	}
	http.Handle("GET /{$}", s)
	log.Fatal(http.ListenAndServe(":"+cmp.Or(os.Getenv("PORT"), "8080"), nil))
}
