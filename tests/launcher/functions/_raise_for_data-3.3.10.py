def _raise_for_data(data: Union[bytes, str, Dict[str, Any]], status_code: Optional[int] = None) -> Etcd3ClientError:
    try:
        if TYPE_CHECKING:  # pragma: no cover
            assert isinstance(data, dict)
        data_error: Optional[Dict[str, Any]] = data.get('error') or data.get('Error')
        if isinstance(data_error, dict):  # streaming response
            status_code = data_error.get('http_code')
            code: Optional[int] = data_error.get('code') or data_error['grpc_code']
            error: str = data_error['message']
        else:
            data_code = data.get('code') or data.get('Code')
            if TYPE_CHECKING:  # pragma: no cover
                assert not isinstance(data_code, dict)
            code = data_code
            error = str(data_error or data.get('message') or data)
    except Exception:
        error = str(data)
        code = GRPCCode.Unknown

    # Workaround for etcd-io/etcd#21671
    if code == GRPCCode.Unknown and error == 'not a primary lessor':
        code = GRPCCode.Unavailable

    err = errStringToClientError.get(error) or errCodeToClientError.get(code) or Etcd3ClientError
    return err(code, error, status_code)
